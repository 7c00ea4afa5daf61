//! Every interleaving of a few threads, up to three preemptions.
//!
//! Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p aevent-runtime --release --test loom_wait_queue`.
#![cfg(loom)]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use aevent_runtime::wait_queue::{Acquire, Lock, Semaphore, WaitQueue};
use loom::cell::UnsafeCell;
use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

fn poll(acquire: &mut Acquire) -> bool {
    acquire.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

fn locked_increments(threads: usize) {
    let lock = Lock::new();
    let count = Arc::new(UnsafeCell::new(0));
    let increment = |lock: &Lock, count: &UnsafeCell<usize>| {
        block_on(lock.lock());
        // SAFETY: the lock is held; loom itself complains about any overlap.
        count.with_mut(|count| unsafe { *count += 1 });
        assert!(lock.unlock());
    };
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let (lock, count) = (lock.clone(), Arc::clone(&count));
            thread::spawn(move || increment(&lock, &count))
        })
        .collect();
    increment(&lock, &count);
    for other in others {
        other.join().unwrap();
    }
    // SAFETY: all other threads have ended.
    assert_eq!(count.with(|count| unsafe { *count }), threads);
    assert!(!lock.is_locked());
    assert_eq!(lock.waiters(), 0);
}

#[test]
fn two_threads_exclude_each_other_and_both_get_in() {
    model(|| locked_increments(2));
}

#[test]
fn three_threads_exclude_each_other_and_all_get_in() {
    model(|| locked_increments(3));
}

#[test]
fn cancel_racing_with_release_keeps_the_permit() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let mut acquire = semaphore.acquire();
        assert!(!poll(&mut acquire));
        let releasing = semaphore.clone();
        let releaser = thread::spawn(move || releasing.release(1));
        if acquire.cancel() {
            semaphore.release(1);
        }
        releaser.join().unwrap();
        assert_eq!((semaphore.permits(), semaphore.waiters()), (1, 0));
    });
}

#[test]
fn drop_racing_with_release_serves_the_next_in_line() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
        assert!(!poll(&mut first) && !poll(&mut second));
        let releasing = semaphore.clone();
        let releaser = thread::spawn(move || releasing.release(1));
        let dropper = thread::spawn(move || drop(first));
        block_on(second);
        releaser.join().unwrap();
        dropper.join().unwrap();
        assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
    });
}

#[test]
fn joining_the_queue_racing_with_release_is_not_missed() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let releasing = semaphore.clone();
        let releaser = thread::spawn(move || releasing.release(1));
        block_on(semaphore.acquire());
        releaser.join().unwrap();
        assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
    });
}

#[test]
fn a_newcomer_never_overtakes() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
        assert!(!poll(&mut first) && !poll(&mut second));
        let releasing = semaphore.clone();
        let releaser = thread::spawn(move || releasing.release(1));
        let newcomer = semaphore.clone();
        let newcomer = thread::spawn(move || assert!(!newcomer.try_acquire()));
        if poll(&mut second) {
            panic!("the second was served before the first");
        }
        block_on(first);
        releaser.join().unwrap();
        newcomer.join().unwrap();
        assert!(!second.cancel());
    });
}

#[test]
fn releases_racing_with_each_other_serve_both() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
        assert!(!poll(&mut first) && !poll(&mut second));
        let releasing = semaphore.clone();
        let releaser = thread::spawn(move || releasing.release(1));
        semaphore.release(2);
        releaser.join().unwrap();
        assert!(poll(&mut first) && poll(&mut second));
        assert_eq!((semaphore.permits(), semaphore.waiters()), (1, 0));
    });
}

#[test]
fn one_of_two_unlocks_is_told_that_it_was_not_locked() {
    model(|| {
        let lock = Lock::new();
        assert!(lock.try_lock());
        let unlocking = lock.clone();
        let other = thread::spawn(move || unlocking.unlock());
        let mine = lock.unlock();
        assert!(mine ^ other.join().unwrap());
        assert!(!lock.is_locked());
    });
}

#[test]
fn notify_racing_with_listen_is_not_missed() {
    model(|| {
        let queue = Arc::new(WaitQueue::new());
        let ready = Arc::new(AtomicBool::new(false));
        let (telling, making) = (Arc::clone(&queue), Arc::clone(&ready));
        let notifier = thread::spawn(move || {
            making.store(true, Ordering::Relaxed);
            telling.notify(1);
        });
        loop {
            if ready.load(Ordering::Relaxed) {
                break;
            }
            let waiter = queue.listen();
            if ready.load(Ordering::Relaxed) {
                break;
            }
            block_on(waiter);
        }
        notifier.join().unwrap();
        assert!(queue.is_empty());
    });
}

#[test]
fn a_notified_waiter_that_goes_passes_it_on() {
    model(|| {
        let queue = Arc::new(WaitQueue::new());
        let (first, second) = (queue.listen(), queue.listen());
        let telling = Arc::clone(&queue);
        let notifier = thread::spawn(move || assert_eq!(telling.notify(1), 1));
        let dropper = thread::spawn(move || drop(first));
        block_on(second);
        notifier.join().unwrap();
        dropper.join().unwrap();
        assert!(queue.is_empty());
    });
}

#[test]
fn cancelling_racing_with_notify_is_counted_once() {
    model(|| {
        let queue = Arc::new(WaitQueue::new());
        let waiter = queue.listen();
        let telling = Arc::clone(&queue);
        let notifier = thread::spawn(move || telling.notify(1));
        let told = waiter.cancel();
        assert_eq!(notifier.join().unwrap(), usize::from(told));
        assert!(queue.is_empty());
    });
}

#[test]
fn notifications_racing_with_each_other_reach_both_waiters() {
    model(|| {
        let queue = Arc::new(WaitQueue::new());
        let (first, second) = (queue.listen(), queue.listen());
        let telling = Arc::clone(&queue);
        let notifier = thread::spawn(move || telling.notify(1));
        assert_eq!(queue.notify(1), 1);
        assert_eq!(notifier.join().unwrap(), 1);
        assert!(queue.is_empty());
        assert!(first.cancel() && second.cancel());
    });
}

#[test]
fn those_who_come_and_go_leave_the_count_right() {
    model(|| {
        let queue = Arc::new(WaitQueue::new());
        let joining = Arc::clone(&queue);
        let passer_by = thread::spawn(move || joining.listen().cancel());
        let told = queue.notify_all();
        assert_eq!(passer_by.join().unwrap(), told == 1);
        assert!(queue.is_empty());
    });
}
