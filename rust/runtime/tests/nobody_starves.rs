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
fn whose_deadline_has_come_waits_for_no_round() {
    let mut queue = RunQueue::new();
    for task in ["woken 1", "woken 2"] {
        queue.push_ready(task);
    }
    queue.push_fresh("new");
    for task in ["due 1", "due 2"] {
        queue.push_due(task);
    }
    assert_eq!(queue.len(), 5);
    let first: Vec<_> = (0..2).filter_map(|_| queue.pop()).collect();
    // The clock may have ticked in between.
    assert!(first[0] == "due 1");
    let order: Vec<_> = first
        .into_iter()
        .chain(std::iter::from_fn(|| queue.pop()))
        .collect();
    let place = |task| order.iter().position(|other| *other == task).unwrap();
    assert!(place("due 1") < place("due 2"));
    assert_eq!(order.len(), 5);
    assert!(queue.is_empty());
}

#[test]
fn those_that_are_due_and_compute_leave_every_other_slice_to_the_rest() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    queue.push_ready("woken");
    queue.push_due("due");
    let mut turns = Vec::new();
    for _ in 0..6 {
        let task = queue.pop().unwrap();
        turns.push(task);
        // It computes for a slice, and is ready again at once.
        wait_for_the_coarse_clock();
        match task {
            "due" => queue.push_due("due"),
            _ => queue.push_ready("woken"),
        }
    }
    assert_eq!(turns, ["due", "woken", "due", "woken", "due", "woken"]);
}

#[test]
fn who_becomes_due_later_does_not_wait_for_what_was_used_up_before() {
    let _watchdog = Watchdog::start();
    let mut queue = RunQueue::new();
    for _ in 0..3 {
        queue.push_ready("woken");
    }
    queue.push_due("due");
    assert_eq!(queue.pop(), Some("due"));
    assert_eq!(queue.pop(), Some("woken"));
    wait_for_the_coarse_clock();
    queue.push_due("due");
    assert_eq!(queue.pop(), Some("due"));
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

#[test]
fn who_is_put_first_comes_before_the_others_but_not_for_ever() {
    let mut queue = RunQueue::new();
    queue.push_fresh("fresh");
    queue.push_ready("ready");
    queue.push_due("due");
    queue.push_first("first");
    assert_eq!(queue.len(), 4);
    assert_eq!(queue.pop(), Some("first"));
    for _ in 1..64 {
        queue.push_first("again");
        assert_eq!(queue.pop(), Some("again"));
    }
    queue.push_first("again");
    assert_eq!(queue.pop(), Some("due"));
    assert_eq!(queue.pop(), Some("again"));
}

#[test]
fn a_round_of_woken_ones_may_begin_out_of_turn() {
    let _watchdog = Watchdog::start();
    wait_for_the_coarse_clock();
    let mut queue = RunQueue::new();
    queue.push_fresh("new 1");
    queue.push_fresh("new 2");
    queue.push_ready("a");
    assert_eq!(queue.pop(), Some("new 1"));
    queue.begin_round();
    assert_eq!(queue.pop(), Some("a"));
    assert_eq!(queue.pop(), Some("new 2"));
    assert!(queue.is_empty());
}

#[test]
fn who_is_likely_to_come_is_told_without_being_taken() {
    let mut queue = RunQueue::new();
    queue.push_ready("first");
    queue.push_ready("second");
    assert_eq!(queue.upcoming(1), Some(&"second"));
    assert_eq!(queue.upcoming(2), None);
    queue.push_due("due");
    assert_eq!(queue.upcoming(0), Some(&"due"));
    assert_eq!(queue.len(), 3);
}
