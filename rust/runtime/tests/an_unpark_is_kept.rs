//! Parking follows `std::thread::park`: an unpark that comes first is kept, and one is kept at most.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use support::{parked, run_ready};

#[test]
fn an_unpark_before_the_park_ends_it_at_once() {
    let scheduler = Scheduler::new().unwrap();
    let task = Task::new(scheduler.clone(), "early");
    task.unpark();
    assert!(!scheduler.has_ready(), "it runs: there is nothing to queue");
    assert!(!task.begin_park(), "the unpark was kept");
    assert!(task.begin_park(), "and is used up");
    assert!(task.is_parked());
}

#[test]
fn two_unparks_queue_a_parked_task_once() {
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "twice");
    task.unpark();
    task.unpark();
    task.waker().wake();
    assert!(task.is_queued());
    assert_eq!(scheduler.ready_len(), 1);
    assert_eq!(run_ready(&scheduler), ["twice"]);
    assert!(task.begin_park(), "none of them was kept for the next park");
}

#[test]
fn two_unparks_before_the_park_are_one() {
    let scheduler = Scheduler::new().unwrap();
    let task = Task::new(scheduler.clone(), "early");
    task.unpark();
    task.waker().wake_by_ref();
    assert!(!task.begin_park());
    assert!(task.begin_park());
}

#[test]
fn a_yield_uses_a_kept_unpark_up() {
    let scheduler = Scheduler::new().unwrap();
    let task = Task::new(scheduler.clone(), "yields");
    task.unpark();
    task.begin_yield();
    scheduler.enqueue(task.clone());
    task.unpark();
    assert_eq!(run_ready(&scheduler), ["yields"]);
    assert!(task.begin_park());
}

#[test]
fn those_who_are_unparked_run_in_that_order() {
    let scheduler = Scheduler::new().unwrap();
    let tasks = ["first", "second", "third"].map(|name| parked(&scheduler, name));
    for index in [2, 0, 1] {
        tasks[index].unpark();
    }
    assert_eq!(run_ready(&scheduler), ["third", "first", "second"]);
}

#[test]
fn a_finished_task_is_never_queued_again() {
    let scheduler = Scheduler::new().unwrap();
    let task = Task::new(scheduler.clone(), "done");
    task.finish();
    task.unpark();
    task.clone().unpark_owned();
    assert!(task.is_done());
    assert!(!scheduler.has_ready());
}

#[test]
fn a_host_that_resumes_by_itself_is_told_of_the_entry_in_the_queue() {
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "host");
    assert!(task.begin_run_unasked(), "parked: it is in no queue");
    assert!(task.begin_park());
    task.unpark();
    assert!(
        !task.begin_run_unasked(),
        "queued: its entry is still there"
    );
    assert_eq!(scheduler.ready_len(), 1);
}
