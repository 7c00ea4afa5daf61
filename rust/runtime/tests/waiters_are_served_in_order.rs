//! Waiters of every kind are served in order, and no wake-up and no permit is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use aevent_runtime::wait_queue::{Acquire, Lock, Semaphore, WaitQueue, Waiter};
use futures_lite::future::block_on;

const ROUNDS: usize = if cfg!(miri) { 20 } else { 20_000 };

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(acquire: &mut Acquire) -> bool {
    acquire.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

fn told(waiter: &mut Waiter) -> bool {
    waiter.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn notifications_go_to_the_longest_waiting() {
    let queue = WaitQueue::new();
    assert_eq!(queue.notify(5), 0);
    let mut waiters: Vec<_> = (0..5).map(|_| queue.listen()).collect();
    assert_eq!(queue.len(), 5);
    assert_eq!(queue.notify(2), 2);
    // Additional ones: the first two have not run yet and still do not count.
    assert_eq!(queue.notify(1), 1);
    assert_eq!(queue.len(), 2);
    let served: Vec<_> = waiters.iter_mut().map(told).collect();
    assert_eq!(served, [true, true, true, false, false]);
    assert_eq!(queue.notify_all(), 2);
    assert_eq!(queue.notify_all(), 0);
    assert!(queue.is_empty());
    assert!(waiters.iter_mut().all(told));
    assert!(waiters.iter_mut().all(told), "ready stays ready");
}

#[test]
fn the_waker_of_the_last_poll_is_woken_once() {
    let queue = WaitQueue::new();
    let mut waiter = queue.listen();
    let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    for woken in [&first, &last, &last] {
        let waker = Waker::from(Arc::clone(woken));
        assert!(waiter.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    queue.notify(1);
    queue.notify(1);
    assert_eq!(first.0.load(Ordering::SeqCst), 0);
    assert_eq!(last.0.load(Ordering::SeqCst), 1);
}

#[test]
fn dropping_a_notified_waiter_passes_the_notification_on() {
    let queue = WaitQueue::new();
    let (first, mut second, mut third) = (queue.listen(), queue.listen(), queue.listen());
    queue.notify(1);
    drop(first);
    assert!(told(&mut second));
    assert!(!told(&mut third));
    assert_eq!(queue.len(), 1);
    drop(third);
    assert_eq!(queue.len(), 0);
    // With nobody to pass it on to, it is gone: the queue has no memory.
    let last = queue.listen();
    queue.notify(1);
    drop(last);
    assert!(!told(&mut queue.listen()));
}

#[test]
fn cancelling_a_waiter_tells_whether_it_was_notified() {
    let queue = WaitQueue::new();
    let (first, second, mut third) = (queue.listen(), queue.listen(), queue.listen());
    queue.notify(1);
    assert!(first.cancel());
    assert!(!second.cancel());
    assert!(!told(&mut third), "the canceller kept the notification");
    queue.notify(1);
    assert!(told(&mut third));
    assert!(third.cancel());
    assert!(queue.is_empty());
}

#[test]
fn a_waiter_outlives_its_queue() {
    let queue = WaitQueue::new();
    let mut waiter = queue.listen();
    drop(queue);
    assert!(!told(&mut waiter));
}

#[test]
fn a_permit_is_handed_to_the_longest_waiting_and_to_no_newcomer() {
    let semaphore = Semaphore::new(1);
    assert!(semaphore.try_acquire());
    let mut waiting: VecDeque<_> = (0..4).map(|_| semaphore.acquire()).collect();
    assert!(!waiting.iter_mut().any(poll));
    assert_eq!(semaphore.waiters(), 4);
    while let Some(mut first) = waiting.pop_front() {
        semaphore.release(1);
        assert!(!semaphore.try_acquire());
        assert!(!poll(&mut semaphore.acquire()));
        assert!(!waiting.iter_mut().any(poll));
        assert!(poll(&mut first));
    }
    assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
    semaphore.release(1);
    assert_eq!(semaphore.permits(), 1);
}

#[test]
fn what_nobody_waits_for_becomes_free() {
    let semaphore = Semaphore::new(0);
    let mut waiting = [semaphore.acquire(), semaphore.acquire()];
    assert!(!waiting.iter_mut().any(poll));
    semaphore.release(5);
    assert!(waiting.iter_mut().all(poll));
    assert_eq!(semaphore.permits(), 3);
}

#[test]
fn a_limit_on_release_is_kept() {
    let semaphore = Semaphore::new(2);
    assert!(!semaphore.try_release(1, 2));
    assert!(semaphore.try_acquire());
    assert!(semaphore.try_release(1, 2));
    assert!(!semaphore.try_release(u32::MAX, u32::MAX), "no overflow");
    assert!(semaphore.try_acquire() && semaphore.try_acquire());
    let mut waiting = semaphore.acquire();
    assert!(!poll(&mut waiting));
    assert!(!semaphore.try_release(4, 2), "all or nothing");
    assert!(!poll(&mut waiting));
    assert!(semaphore.try_release(3, 2));
    assert!(poll(&mut waiting));
    assert_eq!(semaphore.permits(), 2);
}

#[test]
fn giving_up_leaves_the_queue_or_keeps_the_permit() {
    let semaphore = Semaphore::new(0);
    assert!(!semaphore.acquire().cancel());
    let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
    assert!(!poll(&mut first) && !poll(&mut second));
    assert!(!first.cancel());
    assert_eq!(semaphore.waiters(), 1);
    semaphore.release(1);
    assert!(second.cancel(), "the permit had been handed over");
    semaphore.release(1);
    assert_eq!((semaphore.permits(), semaphore.waiters()), (1, 0));
}

#[test]
fn dropping_gives_back_a_permit_that_was_handed_over() {
    let semaphore = Semaphore::new(0);
    let mut waiting: Vec<_> = (0..3).map(|_| semaphore.acquire()).collect();
    assert!(!waiting.iter_mut().any(poll));
    semaphore.release(1);
    // From the first, which never learns of it, to the second.
    drop(waiting.remove(0));
    assert!(poll(&mut waiting[0]));
    // A permit that was reported is the caller's; the third just leaves.
    drop(waiting);
    assert_eq!((semaphore.permits(), semaphore.waiters()), (0, 0));
    let mut last = semaphore.acquire();
    assert!(!poll(&mut last));
    semaphore.release(1);
    drop(last);
    assert_eq!(semaphore.permits(), 1);
}

#[test]
fn a_lock_is_unlocked_once() {
    let lock = Lock::new();
    assert!(!lock.unlock());
    assert!(lock.try_lock());
    assert!(lock.is_locked() && !lock.try_lock());
    let mut waiting = lock.lock();
    assert!(!poll(&mut waiting));
    assert!(lock.unlock());
    assert!(lock.is_locked(), "handed over, not freed");
    assert!(poll(&mut waiting));
    assert!(lock.unlock());
    assert!(!lock.unlock());
    assert!(!lock.is_locked());
}

#[test]
fn threads_exclude_each_other() {
    let lock = Lock::new();
    let inside = AtomicBool::new(false);
    let entered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (lock, inside, entered) = (&lock, &inside, &entered);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    if thread == 0 && round % 2 == 0 {
                        // One who keeps giving up must not upset the others.
                        let mut acquire = lock.lock();
                        if !poll(&mut acquire) {
                            thread::yield_now();
                            if !acquire.cancel() {
                                continue;
                            }
                        }
                    } else {
                        block_on(lock.lock());
                    }
                    assert!(!inside.swap(true, Ordering::Relaxed));
                    entered.fetch_add(1, Ordering::Relaxed);
                    assert!(inside.swap(false, Ordering::Relaxed));
                    assert!(lock.unlock());
                }
            });
        }
    });
    assert!(entered.into_inner() >= 3 * ROUNDS);
    assert!(!lock.is_locked());
    assert_eq!(lock.waiters(), 0);
}

#[test]
fn permits_are_conserved_among_threads_that_give_up() {
    let semaphore = Semaphore::new(2);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let mut acquire = semaphore.acquire();
                    if !poll(&mut acquire) {
                        match round % 3 {
                            0 => block_on(acquire),
                            1 => {
                                drop(acquire);
                                continue;
                            }
                            _ if acquire.cancel() => {}
                            _ => continue,
                        }
                    }
                    semaphore.release(1);
                }
            });
        }
    });
    assert_eq!((semaphore.permits(), semaphore.waiters()), (2, 0));
}

#[test]
fn a_queue_between_threads_loses_no_wake_up() {
    let queue = WaitQueue::new();
    let items = Mutex::new(VecDeque::new());
    let got = AtomicUsize::new(0);
    let total = 4 * ROUNDS;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for item in 0..total / 2 {
                    items.lock().unwrap().push_back(item);
                    queue.notify(1);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..total / 2 {
                    loop {
                        if items.lock().unwrap().pop_front().is_some() {
                            break;
                        }
                        let waiter = queue.listen();
                        if items.lock().unwrap().pop_front().is_some() {
                            // Dropping the waiter passes on what it may have been told.
                            break;
                        }
                        block_on(waiter);
                    }
                    got.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(got.into_inner(), total);
    assert!(queue.is_empty());
}

#[test]
fn those_who_come_and_go_behind_somebody_who_stays_change_no_order() {
    let lock = Lock::new();
    assert!(lock.try_lock());
    let mut staying: Vec<Acquire> = Vec::new();
    for round in 0..200 {
        let mut passing = [lock.lock(), lock.lock()];
        assert!(!passing.iter_mut().any(poll));
        if round % 50 == 0 {
            let mut acquire = lock.lock();
            assert!(!poll(&mut acquire));
            staying.push(acquire);
        }
        assert!(!passing.into_iter().any(Acquire::cancel));
    }
    assert_eq!(lock.waiters(), 4);
    for served in 0..4 {
        assert!(lock.unlock());
        let ready: Vec<_> = staying.iter_mut().map(poll).collect();
        assert_eq!(ready.iter().filter(|ready| **ready).count(), served + 1);
        assert!(ready[..=served].iter().all(|ready| *ready));
    }
    assert!(lock.unlock() && !lock.is_locked());
}

#[test]
fn a_lock_that_is_reset_serves_none_of_those_who_waited() {
    let lock = Lock::new();
    assert!(lock.try_lock());
    let mut former = lock.lock();
    assert!(!poll(&mut former));
    lock.reset();
    assert!(lock.try_lock());
    let mut next = lock.lock();
    assert!(!poll(&mut next));
    assert!(lock.unlock());
    assert!(!poll(&mut former) && poll(&mut next));
    assert!(!former.cancel());
    assert!(lock.unlock() && !lock.is_locked());
}
