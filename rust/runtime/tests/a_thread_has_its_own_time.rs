//! A thread's own time stands still, runs, or jumps to the next deadline when nobody has anything to
//! do; other threads do not notice.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use aevent_runtime::clock;
use aevent_runtime::quiet::Quiet;
use aevent_runtime::scheduler::{Pace, Scheduler};
use support::{parked, run_ready};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counted() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (count.clone(), Waker::from(count))
}

#[test]
fn time_that_stands_still_is_the_same_each_time() {
    clock::set_rate(0.0);
    let now = clock::now();
    while clock::real() <= now + 1000 {}
    assert_eq!(clock::now(), now);
    clock::jump_to(now + HOUR);
    assert_eq!(clock::now(), now + HOUR);
    clock::jump_to(now);
    assert_eq!(clock::now(), now + HOUR, "it does not go back");
}

#[test]
fn time_that_runs_again_keeps_its_distance() {
    clock::set_rate(0.0);
    clock::jump_to(clock::now() + HOUR);
    clock::set_rate(1.0);
    let ahead = clock::now() - clock::real();
    assert!(ahead > HOUR - SECOND && ahead <= HOUR, "{ahead}");
    clock::give_up();
    assert!(clock::now() <= clock::real());
}

#[test]
fn fast_time_makes_waits_short() {
    clock::set_rate(1000.0);
    assert_eq!(clock::in_real_time(5 * SECOND), Some(5 * SECOND / 1000));
    clock::set_rate(0.0);
    assert_eq!(clock::in_real_time(1), None, "it never comes");
    assert_eq!(clock::in_real_time(0), Some(0));
    assert_eq!(clock::real_deadline(clock::now() + 1), clock::NEVER);
}

#[test]
fn other_threads_keep_the_real_time() {
    clock::set_rate(0.0);
    clock::jump_to(clock::now() + HOUR);
    let theirs = std::thread::spawn(|| {
        let now = clock::now();
        clock::real() - now
    });
    assert!(theirs.join().unwrap() < SECOND);
}

#[test]
fn the_clock_jumps_to_one_deadline_after_the_other() {
    let scheduler = Scheduler::new().unwrap();
    clock::set_rate(0.0);
    scheduler.set_autojump(Some(0));
    let now = clock::now();
    assert_eq!(scheduler.patience(), None, "there is nowhere to jump to");
    scheduler.unpark_at(now + 2 * HOUR, parked(&scheduler, "second"));
    scheduler.unpark_at(now + HOUR, parked(&scheduler, "first"));
    assert_eq!(scheduler.time_to_wait(), None);
    assert_eq!(scheduler.patience(), Some(0));
    scheduler.after_quiet(0);
    assert_eq!(clock::now(), now + HOUR);
    assert_eq!(run_ready(&scheduler), ["first"]);
    scheduler.after_quiet(0);
    assert_eq!(clock::now(), now + 2 * HOUR);
    assert_eq!(run_ready(&scheduler), ["second"]);
}

#[test]
fn the_clock_does_not_jump_ahead_of_work_elsewhere() {
    let scheduler = Scheduler::new().unwrap();
    clock::set_rate(0.0);
    scheduler.set_autojump(Some(0));
    scheduler.unpark_at(clock::now() + HOUR, parked(&scheduler, "sleeper"));
    scheduler.count_work(true);
    assert_eq!(scheduler.patience(), None);
    assert_eq!(scheduler.pace(), Pace::Real(Some(HOUR)));
    scheduler.after_quiet(SECOND);
    assert!(!scheduler.has_ready());
    scheduler.count_work(false);
    assert_eq!(scheduler.pace(), Pace::Own);
    scheduler.after_quiet(0);
    assert_eq!(run_ready(&scheduler), ["sleeper"]);
}

#[test]
fn a_jump_by_hand_fires_what_is_due() {
    let scheduler = Scheduler::new().unwrap();
    clock::set_rate(0.0);
    let now = clock::now();
    scheduler.unpark_at(now + HOUR, parked(&scheduler, "sleeper"));
    clock::jump_to(now + HOUR - 1);
    scheduler.clock_has_jumped();
    assert!(!scheduler.has_ready());
    clock::jump_to(now + HOUR);
    scheduler.clock_has_jumped();
    assert_eq!(run_ready(&scheduler), ["sleeper"]);
}

#[test]
fn the_most_impatient_are_told_first_and_together() {
    let mut quiet = Quiet::new();
    assert!(!quiet.is_awaited());
    let (long, long_waker) = counted();
    let (short, short_waker) = counted();
    quiet.add(20, long_waker);
    quiet.add(10, short_waker.clone());
    quiet.add(10, short_waker);
    assert_eq!(quiet.patience(true), Some(10));
    assert!(quiet.take_patient(9).is_empty());
    quiet.take_patient(30).into_iter().for_each(Waker::wake);
    assert_eq!(short.0.load(Ordering::Relaxed), 2);
    assert_eq!(long.0.load(Ordering::Relaxed), 0, "its turn is next");
    assert_eq!(quiet.patience(true), Some(20));
}

#[test]
fn who_gives_up_is_not_told() {
    let mut quiet = Quiet::new();
    let (count, waker) = counted();
    let key = quiet.add(0, waker.clone());
    assert!(quiet.renew(key, &waker).is_some());
    drop(quiet.forget(key));
    assert!(quiet.renew(key, &waker).is_none());
    assert!(quiet.take_patient(1).is_empty());
    assert!(!quiet.is_awaited());
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
}

#[test]
fn those_who_wait_for_quiet_come_before_a_jump() {
    let scheduler = Scheduler::new().unwrap();
    clock::set_rate(0.0);
    scheduler.set_autojump(Some(0));
    scheduler.unpark_at(clock::now() + HOUR, parked(&scheduler, "sleeper"));
    let task = parked(&scheduler, "patient");
    scheduler.wake_when_quiet(0, task.waker());
    scheduler.after_quiet(0);
    assert_eq!(run_ready(&scheduler), ["patient"]);
    scheduler.after_quiet(0);
    assert_eq!(run_ready(&scheduler), ["sleeper"]);
}
