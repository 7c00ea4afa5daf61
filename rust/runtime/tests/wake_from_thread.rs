//! A wake-up from another OS thread reaches the scheduler's owner, whatever he does at the moment.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use aevent_runtime::scheduler::Scheduler;
use support::{Watchdog, parked, run_ready, wait_for_events};

#[test]
fn while_the_owner_runs_it_is_told_to_look() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "woken");
    thread::scope(|scope| {
        scope.spawn(|| task.unpark());
    });
    assert!(task.is_queued());
    assert!(!scheduler.has_ready(), "the run queue is the owner's");
    assert!(scheduler.is_look_due());
    assert_eq!(scheduler.time_to_wait(), Some(0));
    scheduler.look().unwrap();
    assert_eq!(run_ready(&scheduler), ["woken"]);
}

#[test]
fn before_the_owner_waits_it_ends_the_wait() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "woken");
    // Asked before the wake-up, so that nothing but the wait itself can notice it.
    assert_eq!(scheduler.time_to_wait(), None);
    let (fd, mut batch) = scheduler.begin_wait();
    thread::scope(|scope| {
        scope.spawn(|| task.unpark());
    });
    let result = aevent_runtime::reactor::wait(fd, &mut batch, None);
    scheduler.take_in(batch, result).unwrap();
    assert_eq!(run_ready(&scheduler), ["woken"]);
}

/// Returns when the thread `id` of this process sleeps in a system call.
fn wait_until_asleep(id: i32) {
    loop {
        let text = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
        let state = text.rsplit(") ").next().unwrap().chars().next();
        if state == Some('S') {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn while_the_owner_waits_it_ends_the_wait() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "woken");
    // SAFETY: takes nothing.
    let me = unsafe { libc::gettid() };
    let waits = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !waits.load(Ordering::Acquire) {
                thread::yield_now();
            }
            wait_until_asleep(me);
            task.unpark();
        });
        waits.store(true, Ordering::Release);
        while !scheduler.has_ready() {
            wait_for_events(&scheduler);
        }
    });
    assert_eq!(run_ready(&scheduler), ["woken"]);
}

#[test]
fn a_notification_without_a_task_ends_the_wait_too() {
    let _watchdog = Watchdog::start();
    let scheduler = Scheduler::<&str>::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| scheduler.notify());
        let (fd, mut batch) = scheduler.begin_wait();
        let result = aevent_runtime::reactor::wait(fd, &mut batch, None);
        scheduler.take_in(batch, result).unwrap();
    });
    assert!(!scheduler.has_ready());
    assert_eq!(scheduler.time_to_wait(), None);
}

#[test]
fn of_many_wake_ups_none_is_lost() {
    let _watchdog = Watchdog::start();
    const ROUNDS: usize = 2_000;
    let scheduler = Scheduler::new().unwrap();
    let tasks = ["a", "b", "c"].map(|name| parked(&scheduler, name));
    let runs = AtomicUsize::new(0);
    thread::scope(|scope| {
        for task in &tasks {
            scope.spawn(|| {
                while runs.load(Ordering::Relaxed) < ROUNDS {
                    task.unpark();
                }
            });
        }
        while runs.load(Ordering::Relaxed) < ROUNDS {
            wait_for_events(&scheduler);
            while let Some(task) = scheduler.next() {
                task.begin_run();
                runs.fetch_add(1, Ordering::Relaxed);
                if !task.begin_park() {
                    task.begin_yield();
                    scheduler.enqueue(task);
                }
            }
        }
    });
}

#[test]
fn a_descriptor_closed_elsewhere_wakes_who_waits_for_it() {
    let _watchdog = Watchdog::start();
    use aevent_runtime::reactor::Direction;
    use std::os::fd::AsRawFd;
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let fd = socket.as_raw_fd();
    let scheduler = Scheduler::new().unwrap();
    let task = parked(&scheduler, "waits");
    let generation = aevent_runtime::descriptor::renew(fd);
    assert!(
        scheduler
            .wait_ready(fd, Direction::Read, task.clone())
            .unwrap()
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            aevent_runtime::descriptor::renew(fd);
            scheduler.closing_elsewhere(fd);
        });
        while !scheduler.has_ready() {
            wait_for_events(&scheduler);
        }
    });
    assert_eq!(run_ready(&scheduler), ["waits"]);
    assert_ne!(aevent_runtime::descriptor::generation(fd), generation);
}
