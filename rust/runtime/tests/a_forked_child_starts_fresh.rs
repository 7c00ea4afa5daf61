//! The child of a fork forgets those who waited in the parent, and the parent notices nothing.
//!
//! With a real fork, so without the test harness: it would fork with threads of its own.

mod support;

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use aevent_runtime::clock;
use aevent_runtime::fork;
use aevent_runtime::futures::Handle;
use aevent_runtime::offload::Offload;
use aevent_runtime::reactor::Interest;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::wait_queue::{Acquire, Lock, Semaphore, WaitQueue, Waiter};
use support::{Name, is_readable, parked, run_ready, wait_for_events};

/// Forks, calls `child` in the child and `parent` in the parent when the child has ended well.
fn forked<T>(name: &str, state: T, child: impl FnOnce(T), parent: impl FnOnce(T)) {
    // SAFETY: the child does nothing that a thread of the pool, if there is one, may have been in the
    // middle of; apart from memory, which the system's allocator looks after.
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

static DROPPED: AtomicU32 = AtomicU32::new(0);

/// Counts in which process it was dropped.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

type Futures = (Arc<Scheduler<Name>>, Vec<Handle<()>>, Arc<WaitQueue>);

/// In a box, since `rustc` cannot yet see that a block with a type that contains a reference is `Send`.
fn until(
    scheduler: &Arc<Scheduler<Name>>,
    deadline: u64,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(scheduler.until(deadline))
}

/// One that was never polled, one that has been woken, and two that wait, each with a guard.
fn some_futures() -> Futures {
    DROPPED.store(0, Ordering::SeqCst);
    let scheduler = Scheduler::new().unwrap();
    let queue = Arc::new(WaitQueue::new());
    let mut handles = Vec::new();
    for _ in 0..2 {
        let mut waiter = queue.listen();
        let guard = Guard;
        handles.push(scheduler.spawn(async move {
            let _guard = guard;
            std::future::poll_fn(|cx| waiter.poll(cx)).await;
        }));
    }
    let until = until(&scheduler, u64::MAX / 2);
    handles.push(scheduler.spawn(async move {
        let _guard = Guard;
        until.await;
    }));
    scheduler.look().unwrap();
    assert_eq!(queue.notify(1), 1);
    let guard = Guard;
    handles.push(scheduler.spawn(async move { drop(guard) }));
    (scheduler, handles, queue)
}

fn finish<T>(scheduler: &Scheduler<Name>, mut handle: Handle<T>) -> T {
    loop {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = Pin::new(&mut handle).poll(&mut cx) {
            return output;
        }
        wait_for_events(scheduler);
    }
}

/// A wait for a deadline, one for a descriptor, and twelve jobs of the pool: all that drives futures.
fn use_everything(scheduler: &Arc<Scheduler<Name>>) {
    let until = scheduler.until(clock::now() + 1_000_000);
    finish(scheduler, scheduler.spawn(until));
    // SAFETY: no pointers. It is open until the process ends.
    let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    let ready = scheduler.spawn(scheduler.ready(bell, Interest::READ));
    scheduler.look().unwrap();
    // SAFETY: eight readable bytes.
    assert_eq!(unsafe { libc::write(bell, [1u64].as_ptr().cast(), 8) }, 8);
    finish(scheduler, ready).unwrap();
    for count in [1, 12] {
        let jobs: Vec<_> = (0..count)
            .map(|number| scheduler.spawn(Offload::global().run(move || number)))
            .collect();
        for (number, job) in jobs.into_iter().enumerate() {
            assert_eq!(finish(scheduler, job).unwrap(), number);
        }
    }
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
    forked(
        "the parent's futures are neither polled nor dropped",
        some_futures(),
        |(scheduler, mut handles, queue)| {
            scheduler.reset_after_fork().unwrap();
            assert!(!scheduler.has_work());
            // One handle may belong to an object that is collected, another to who goes on.
            drop(handles.pop());
            handles.pop().unwrap().detach();
            assert!(!handles[0].is_finished());
            assert_eq!(queue.notify_all(), 0);
            scheduler.look().unwrap();
            assert_eq!(DROPPED.load(Ordering::SeqCst), 0);
            // The child's own are as good as any.
            let own = scheduler.spawn(async { 1 });
            assert_eq!(finish(&scheduler, own), 1);
            assert_eq!(DROPPED.load(Ordering::SeqCst), 0);
        },
        |(scheduler, mut handles, queue)| {
            assert_eq!(DROPPED.load(Ordering::SeqCst), 0);
            drop(handles.remove(2));
            assert_eq!(queue.notify(1), 1);
            for handle in handles {
                finish(&scheduler, handle);
            }
            assert_eq!(DROPPED.load(Ordering::SeqCst), 4);
        },
    );
    // Last, since the parent has threads from then on; the child uses nothing that they may have held.
    forked(
        "what drives futures works in the child, too, after the parent has used it",
        {
            let scheduler = Scheduler::new().unwrap();
            use_everything(&scheduler);
            scheduler
        },
        |scheduler| {
            Offload::global().after_fork_child();
            scheduler.reset_after_fork().unwrap();
            use_everything(&scheduler);
        },
        |scheduler| use_everything(&scheduler),
    );
}
