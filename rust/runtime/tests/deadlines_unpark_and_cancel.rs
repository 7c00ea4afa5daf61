//! A deadline unparks its task or cancels its scope when it has come, and never if it was forgotten.
//!
//! Deadlines in the past stand for those that have come, so nothing here waits for the clock.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::thread;

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::scheduler::Scheduler;
use support::{Watchdog, parked, run_ready, wait_for_events};

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn deadlines_unpark_in_their_order() {
    let scheduler = Scheduler::new().unwrap();
    for (deadline, name) in [(30, "third"), (10, "first"), (20, "second"), (30, "fourth")] {
        scheduler.unpark_at(deadline, parked(&scheduler, name));
    }
    assert_eq!(scheduler.next_deadline(), 10);
    assert!(
        !scheduler.has_ready(),
        "nothing fires before somebody looks"
    );
    scheduler.look().unwrap();
    let order = run_ready(&scheduler);
    assert_eq!(order, ["first", "second", "third", "fourth"]);
    assert_eq!(scheduler.timers_len(), 0);
    assert_eq!(scheduler.next_deadline(), NEVER);
}

#[test]
fn a_deadline_in_the_future_does_not_fire() {
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "later");
    scheduler.unpark_at(clock::now() + HOUR, task.clone());
    scheduler.look().unwrap();
    assert!(task.is_parked());
    let left = scheduler.time_to_wait().unwrap();
    assert!(left > 0 && left <= HOUR);
}

#[test]
fn a_wait_ends_at_the_next_deadline() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::new().unwrap();
    let deadline = clock::now() + 2_000_000;
    scheduler.unpark_at(deadline, parked(&scheduler, "sleeper"));
    while !scheduler.has_ready() {
        wait_for_events(&scheduler);
    }
    assert!(clock::now() >= deadline);
    assert_eq!(run_ready(&scheduler), ["sleeper"]);
}

#[test]
fn a_forgotten_deadline_never_fires() {
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "forgotten");
    let key = scheduler.unpark_at(1, task.clone());
    scheduler.unpark_at(2, parked(&scheduler, "kept"));
    scheduler.forget_deadline(key);
    scheduler.forget_deadline(key);
    scheduler.look().unwrap();
    assert_eq!(run_ready(&scheduler), ["kept"]);
    assert!(task.is_parked());
}

#[test]
fn forgetting_a_deadline_that_has_come_is_harmless() {
    let scheduler = Scheduler::new().unwrap();
    let key = scheduler.unpark_at(1, parked(&scheduler, "fired"));
    scheduler.look().unwrap();
    let other = scheduler.unpark_at(1, parked(&scheduler, "other"));
    scheduler.forget_deadline(key);
    scheduler.look().unwrap();
    assert_eq!(run_ready(&scheduler), ["fired", "other"]);
    scheduler.forget_deadline(other);
}

#[test]
fn a_deadline_cancels_its_scope_and_wakes_those_below_it() {
    let scheduler = Scheduler::new().unwrap();
    let root = Scope::root();
    let outside = parked(&scheduler, "outside");
    root.set_task(outside.clone());
    let scope = Scope::child(&root, 1, false, Some(parked(&scheduler, "in it")));
    let below = Scope::child(&scope, NEVER, false, Some(parked(&scheduler, "below it")));
    let shielded = parked(&scheduler, "shielded");
    let shield = Scope::child(&scope, NEVER, true, Some(shielded.clone()));
    scheduler.cancel_at(1, scope.clone());
    assert!(!scope.is_cancelled());
    scheduler.look().unwrap();
    assert!(scope.is_cancelled() && below.is_cancelled());
    assert!(!root.is_cancelled() && !shield.is_cancelled());
    let mut woken = run_ready(&scheduler);
    woken.sort_unstable();
    assert_eq!(woken, ["below it", "in it"]);
    assert!(outside.is_parked() && shielded.is_parked());
}

#[test]
fn a_forgotten_deadline_cancels_nothing() {
    let scheduler = Scheduler::new().unwrap();
    let scope = Scope::root();
    let task = parked(&scheduler, "in it");
    scope.set_task(task.clone());
    let key = scheduler.cancel_at(1, scope.clone());
    scheduler.forget_deadline(key);
    scheduler.look().unwrap();
    assert!(!scope.is_cancelled());
    assert!(task.is_parked());
}

#[test]
fn a_deadline_that_was_moved_elsewhere_counts_when_it_is_now() {
    let scheduler = Scheduler::new().unwrap();
    let scope = Scope::child(
        &Scope::root(),
        NEVER,
        false,
        Some(parked(&scheduler, "in it")),
    );
    for (deadline, is_cancelled) in [(NEVER, false), (2, true)] {
        scope.set_deadline(deadline);
        thread::scope(|threads| {
            threads.spawn(|| scheduler.cancel_at_elsewhere(1, scope.clone()));
        });
        assert!(!scope.is_cancelled());
        scheduler.look().unwrap();
        assert_eq!(scope.is_cancelled(), is_cancelled);
    }
}
