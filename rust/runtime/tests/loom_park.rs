//! Every interleaving of a task that parks and of those who unpark it.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p aevent-runtime --release --test loom_park`.
#![cfg(loom)]

use std::sync::Arc;

use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// The condition is relaxed: that unparking orders it is what is checked.
fn an_unpark_carries_its_condition(yields: bool) {
    let scheduler = Scheduler::new().unwrap();
    let task = Task::new(scheduler.clone(), ());
    let ready = Arc::new(AtomicBool::new(false));
    let (woken, fulfilled) = (task.clone(), Arc::clone(&ready));
    let mut others = vec![
        thread::spawn({
            let task = task.clone();
            move || task.unpark()
        }),
        thread::spawn(move || {
            fulfilled.store(true, Ordering::Relaxed);
            woken.unpark();
        }),
    ];
    if yields {
        task.begin_yield();
        task.begin_run();
    }
    while !ready.load(Ordering::Relaxed) {
        if !task.begin_park() {
            continue;
        }
        for other in others.drain(..) {
            other.join().unwrap();
        }
        // loom's threads are one thread to the scheduler, so the entry is in the run queue at once.
        scheduler
            .next()
            .expect("somebody has unparked it")
            .begin_run();
    }
    for other in others {
        other.join().unwrap();
    }
}

#[test]
fn an_unpark_carries_its_condition_to_the_park() {
    model(|| an_unpark_carries_its_condition(false));
}

#[test]
fn an_unpark_carries_its_condition_through_a_yield() {
    model(|| an_unpark_carries_its_condition(true));
}
