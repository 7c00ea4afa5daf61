//! New tasks and woken ones take turns, each kind in its order, whatever the others do.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use aevent_runtime::clock;
use aevent_runtime::run_queue::RunQueue;
use support::Watchdog;

fn wait_for_the_coarse_clock() {
    let now = clock::coarse();
    while clock::coarse() == now {
        std::hint::spin_loop();
    }
}

#[test]
fn each_kind_runs_first_come_first_served() {
    let mut queue = RunQueue::new();
    for task in ["r1", "r2", "r3"] {
        queue.push_ready(task);
    }
    for task in ["f1", "f2", "f3"] {
        queue.push_fresh(task);
    }
    assert_eq!(queue.len(), 6);
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    let of = |kind| {
        order
            .iter()
            .copied()
            .filter(|task| task.starts_with(kind))
            .collect::<Vec<_>>()
    };
    assert_eq!(of('r'), ["r1", "r2", "r3"]);
    assert_eq!(of('f'), ["f1", "f2", "f3"]);
    assert!(queue.is_empty());
}

#[test]
fn a_round_of_woken_ones_is_followed_by_a_new_one() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    for task in ["a", "b", "c"] {
        queue.push_ready(task);
    }
    for task in ["new 1", "new 2"] {
        queue.push_fresh(task);
    }
    assert_eq!(queue.pop(), Some("new 1"));
    // The slice of the new ones is over: a round begins.
    wait_for_the_coarse_clock();
    for (task, again) in [("a", "a again"), ("b", "b again"), ("c", "c again")] {
        assert_eq!(queue.pop(), Some(task));
        queue.push_ready(again);
    }
    // Who was pushed during the round is not part of it.
    assert_eq!(queue.pop(), Some("new 2"));
    let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(rest, ["a again", "b again", "c again"]);
}

#[test]
fn new_ones_that_never_cease_do_not_starve_a_woken_one() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    queue.push_fresh("new");
    for _ in 0..3 {
        queue.push_ready("woken");
        while queue.pop() == Some("new") {
            queue.push_fresh("new");
        }
        // Hence the woken one was popped.
        assert_eq!(queue.len(), 1);
    }
}

#[test]
fn woken_ones_that_never_cease_do_not_starve_a_new_one() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    for _ in 0..10 {
        queue.push_ready("yields");
    }
    for _ in 0..3 {
        queue.push_fresh("new");
        while queue.pop() == Some("yields") {
            queue.push_ready("yields");
        }
        assert_eq!(queue.len(), 10);
    }
}

#[test]
fn without_woken_ones_the_new_ones_run_beyond_their_slice() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    for task in [1, 2, 3] {
        queue.push_fresh(task);
    }
    for task in [1, 2, 3] {
        assert_eq!(queue.pop(), Some(task));
        wait_for_the_coarse_clock();
    }
    assert_eq!(queue.pop(), None);
}
