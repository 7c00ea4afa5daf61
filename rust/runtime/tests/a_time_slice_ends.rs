//! After a time slice, or enough tasks, or a letter, the scheduler says that a look is due.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use aevent_runtime::clock;
use aevent_runtime::scheduler::Scheduler;
use support::Watchdog;

/// Begins a slice that is not over at once because the coarse clock has just advanced.
fn begin_slice(scheduler: &Scheduler<&'static str>) {
    let before = clock::coarse();
    while clock::coarse() == before {
        std::hint::spin_loop();
    }
    scheduler.begin_slice();
}

#[test]
fn a_look_is_due_when_the_coarse_clock_has_advanced() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::new().unwrap();
    loop {
        begin_slice(&scheduler);
        let now = clock::coarse();
        if scheduler.is_look_due() {
            // Stopped by the system for longer than a slice, right here.
            continue;
        }
        while clock::coarse() == now {
            std::hint::spin_loop();
        }
        assert!(scheduler.is_look_due());
        assert!(scheduler.is_look_due(), "until somebody looks");
        return;
    }
}

#[test]
fn a_look_is_due_after_a_number_of_tasks() {
    let scheduler = Scheduler::new().unwrap();
    begin_slice(&scheduler);
    let asked = (0..).position(|_| scheduler.is_look_due()).unwrap();
    assert!(asked <= 512);
}

#[test]
fn a_look_is_due_when_another_thread_has_sent_something() {
    let scheduler = Scheduler::<&str>::new().unwrap();
    scheduler.notify();
    assert!(scheduler.is_look_due());
    assert_eq!(scheduler.time_to_wait(), Some(0));
    scheduler.look().unwrap();
    assert_eq!(scheduler.time_to_wait(), None);
}

#[test]
fn a_look_begins_a_slice() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::<&str>::new().unwrap();
    scheduler.begin_slice();
    while !scheduler.is_look_due() {}
    // Not at the first attempt only if the clock advances between the two calls.
    loop {
        scheduler.look().unwrap();
        if !scheduler.is_look_due() {
            return;
        }
    }
}

#[test]
fn short_calls_let_others_run_after_a_number_of_them_or_a_slice() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::<&str>::new().unwrap();
    begin_slice(&scheduler);
    for _ in 0..3 {
        let calls = (0..).position(|_| scheduler.is_look_due_now_and_then());
        assert!(calls.unwrap() <= 12 * 32);
    }
    begin_slice(&scheduler);
    let began = clock::coarse();
    while clock::coarse() == began {
        std::hint::spin_loop();
    }
    // The first call of a slice reads the clock.
    assert!(scheduler.is_look_due_now_and_then());
}
