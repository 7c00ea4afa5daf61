//! The child of a fork forgets those who waited in the parent, and the parent notices nothing.
//!
//! With a real fork, so without the test harness: it would fork with threads of its own.

mod support;

use std::panic::catch_unwind;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use aevent_runtime::fork;
use aevent_runtime::reactor::Interest;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::wait_queue::{Acquire, Lock, Semaphore, WaitQueue, Waiter};
use support::{Name, is_readable, parked, run_ready};

/// Forks, calls `child` in the child and `parent` in the parent when the child has ended well.
fn forked<T>(name: &str, state: T, child: impl FnOnce(T), parent: impl FnOnce(T)) {
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: an alarm ends a child that hangs, as the watchdog, a thread, would elsewhere.
        unsafe { libc::alarm(30) };
        fork::begin_child();
        let ended = catch_unwind(std::panic::AssertUnwindSafe(|| child(state)));
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: a place for the status of a child that nobody else waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "the child of the test '{name}' has failed");
    parent(state);
    println!("test {name} ... ok");
}

fn told(waiter: &mut Waiter) -> bool {
    waiter.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

fn served(acquire: &mut Acquire) -> bool {
    acquire.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

fn a_wait_queue() -> (WaitQueue, Vec<Waiter>) {
    let queue = WaitQueue::new();
    let waiters = (0..3).map(|_| queue.listen()).collect();
    (queue, waiters)
}

fn a_semaphore() -> (Semaphore, Vec<Acquire>) {
    let semaphore = Semaphore::new(0);
    let mut waiters: Vec<_> = (0..3).map(|_| semaphore.acquire()).collect();
    assert!(!waiters.iter_mut().any(served));
    (semaphore, waiters)
}

fn a_scheduler() -> (Arc<Scheduler<Name>>, i32) {
    let scheduler = Scheduler::new().unwrap();
    scheduler.unpark_at(1, parked(&scheduler, "timer"));
    parked(&scheduler, "ready").unpark();
    scheduler.notify();
    // SAFETY: no pointers. It is open until the process ends.
    let awaited = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // Registered twice, so that there is a duplicate.
    for name in ["first", "second"] {
        let task = parked(&scheduler, name);
        scheduler.wait_once(awaited, Interest::READ, task).unwrap();
    }
    let fd = scheduler.fd();
    (scheduler, fd)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn main() {
    if cfg!(miri) {
        return;
    }
    forked(
        "a wait queue forgets the parent's waiters",
        a_wait_queue(),
        |(queue, waiters)| {
            // As parked stacks are: never to run again.
            std::mem::forget(waiters);
            assert_eq!(queue.notify_all(), 0);
            let mut mine = queue.listen();
            assert_eq!(queue.len(), 1);
            assert_eq!(queue.notify(5), 1);
            assert!(told(&mut mine));
        },
        |(queue, mut waiters)| {
            assert_eq!(queue.notify(2), 2);
            let told: Vec<_> = waiters.iter_mut().map(told).collect();
            assert_eq!(told, [true, true, false]);
        },
    );
    forked(
        "a semaphore forgets the parent's waiters",
        a_semaphore(),
        |(semaphore, waiters)| {
            std::mem::forget(waiters);
            semaphore.release(2);
            assert_eq!((semaphore.permits(), semaphore.waiters()), (2, 0));
            assert!(semaphore.try_acquire() && semaphore.try_acquire());
            let mut mine = semaphore.acquire();
            assert!(!served(&mut mine));
            assert_eq!(semaphore.waiters(), 1);
            semaphore.release(1);
            assert!(served(&mut mine));
            assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
        },
        |(semaphore, mut waiters)| {
            assert_eq!(semaphore.waiters(), 3);
            semaphore.release(4);
            assert!(waiters.iter_mut().all(served));
            assert_eq!((semaphore.permits(), semaphore.waiters()), (1, 0));
        },
    );
    forked(
        "a newcomer joins behind nobody of the parent's",
        a_semaphore(),
        |(semaphore, waiters)| {
            std::mem::forget(waiters);
            let mut mine = semaphore.acquire();
            assert!(!served(&mut mine));
            assert_eq!(semaphore.waiters(), 1);
            semaphore.release(1);
            assert!(served(&mut mine));
        },
        drop,
    );
    forked(
        "a lock that is reset is free, whoever held it",
        {
            let lock = Lock::new();
            assert!(lock.try_lock());
            let mut waiting = lock.lock();
            assert!(!served(&mut waiting));
            (lock, waiting)
        },
        |(lock, waiting)| {
            std::mem::forget(waiting);
            lock.reset();
            assert!(!lock.is_locked());
            assert_eq!(lock.waiters(), 0);
            assert!(lock.try_lock() && lock.unlock());
        },
        |(lock, mut waiting)| {
            assert!(lock.unlock() && served(&mut waiting));
            assert!(lock.is_locked());
        },
    );
    forked(
        "a scheduler that is reset has nothing to do",
        a_scheduler(),
        |(scheduler, _)| {
            let open = open_descriptors();
            scheduler.reset_after_fork().unwrap();
            // All are replaced, and the duplicate is of no use.
            assert_eq!(open_descriptors(), open - 1);
            assert!(!scheduler.has_ready());
            assert_eq!(
                (scheduler.timers_len(), scheduler.time_to_wait()),
                (0, None)
            );
            assert!(!is_readable(scheduler.fd(), 0));
            scheduler.look().unwrap();
            assert!(!scheduler.has_ready());
            // And is as good as new.
            parked(&scheduler, "child's").unpark();
            scheduler.unpark_at(1, parked(&scheduler, "child's timer"));
            scheduler.notify();
            assert!(is_readable(scheduler.fd(), 0));
            scheduler.look().unwrap();
            assert_eq!(run_ready(&scheduler), ["child's timer", "child's"]);
        },
        |(scheduler, fd)| {
            assert_eq!(scheduler.fd(), fd);
            assert!(is_readable(fd, 0), "the child has not answered the bell");
            scheduler.look().unwrap();
            assert_eq!(run_ready(&scheduler), ["timer", "ready"]);
        },
    );
    // A coroutine's wait is an object, which the collector may free in the child.
    forked(
        "a parent's waiter that is dropped is not counted",
        a_wait_queue(),
        |(queue, mut waiters)| {
            drop(waiters.pop());
            let mut mine = queue.listen();
            drop(waiters);
            assert_eq!(queue.len(), 1);
            assert_eq!(queue.notify_all(), 1);
            assert!(told(&mut mine));
            assert_eq!(queue.len(), 0);
        },
        drop,
    );
    forked(
        "a parent's acquire that is dropped takes nobody's place",
        a_semaphore(),
        |(semaphore, mut waiters)| {
            drop(waiters.pop());
            assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
            let mut mine = semaphore.acquire();
            assert!(!served(&mut mine));
            assert!(!waiters.pop().unwrap().cancel());
            drop(waiters);
            assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 1));
            semaphore.release(1);
            assert!(served(&mut mine));
            assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
        },
        drop,
    );
}
