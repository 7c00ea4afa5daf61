//! While a host has the thread, the scheduler's descriptor is readable when there is something to do.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use aevent_runtime::clock;
use aevent_runtime::reactor::Direction;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use support::{Name, Watchdog, is_readable, parked, run_ready};

const HOUR: u64 = 3_600_000_000_000;
const SOON: u64 = 1_000_000;

/// A scheduler between two ticks, with nothing to do.
fn hosted() -> Arc<Scheduler<Name>> {
    let scheduler = Scheduler::new().unwrap();
    scheduler.look().unwrap();
    scheduler.set_host_has_the_thread(true);
    assert!(!is_readable(scheduler.fd(), 0));
    scheduler
}

/// A tick of the host's. Who ran in it?
fn tick(scheduler: &Scheduler<Name>) -> Vec<Name> {
    scheduler.set_host_has_the_thread(false);
    scheduler.look().unwrap();
    let ran = run_ready(scheduler);
    scheduler.arm_host_timer();
    scheduler.set_host_has_the_thread(true);
    ran
}

#[test]
fn of_a_task_that_becomes_ready() {
    let scheduler = hosted();
    parked(&scheduler, "unparked").unpark();
    assert!(is_readable(scheduler.fd(), 0));
    assert_eq!(tick(&scheduler), ["unparked"]);
    assert!(!is_readable(scheduler.fd(), 0), "the tick has taken it in");
    scheduler.enqueue_fresh(Task::new_queued(scheduler.clone(), "fresh"));
    assert!(is_readable(scheduler.fd(), 0));
}

#[test]
fn not_of_what_becomes_ready_in_its_tick() {
    let scheduler = hosted();
    scheduler.set_host_has_the_thread(false);
    parked(&scheduler, "unparked").unpark();
    scheduler.enqueue_fresh(Task::new_queued(scheduler.clone(), "fresh"));
    assert!(!is_readable(scheduler.fd(), 0));
    assert_eq!(scheduler.ready_len(), 2);
}

#[test]
fn of_a_task_that_another_thread_unparks() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    let task = parked(&scheduler, "unparked");
    thread::scope(|scope| {
        scope.spawn(|| task.unpark());
        assert!(is_readable(scheduler.fd(), -1));
    });
    assert_eq!(tick(&scheduler), ["unparked"]);
}

#[test]
fn of_a_descriptor_that_becomes_ready() {
    use std::io::Write;
    let scheduler = hosted();
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let task = parked(&scheduler, "reader");
    let fd = socket.as_raw_fd();
    aevent_runtime::descriptor::renew(fd);
    assert!(scheduler.wait_ready(fd, Direction::Read, task).unwrap());
    // That the socket can be written to is news as well.
    scheduler.look().unwrap();
    assert!(!is_readable(scheduler.fd(), 0));
    peer.write_all(b"x").unwrap();
    assert!(is_readable(scheduler.fd(), 0));
    assert_eq!(tick(&scheduler), ["reader"]);
}

#[test]
fn of_a_deadline_that_is_set_between_ticks() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    scheduler.unpark_at(clock::now() + SOON, parked(&scheduler, "sleeper"));
    assert!(is_readable(scheduler.fd(), -1));
    assert_eq!(tick(&scheduler), ["sleeper"]);
    assert!(!is_readable(scheduler.fd(), 0));
}

#[test]
fn of_a_deadline_that_is_nearer_than_the_one_it_knows() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    scheduler.unpark_at(clock::now() + HOUR, parked(&scheduler, "far"));
    scheduler.unpark_at(clock::now() + SOON, parked(&scheduler, "near"));
    scheduler.unpark_at(clock::now() + HOUR, parked(&scheduler, "far"));
    assert!(is_readable(scheduler.fd(), -1));
    assert_eq!(tick(&scheduler), ["near"]);
}

#[test]
fn of_a_deadline_that_was_set_in_its_tick() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    for _ in 0..2 {
        scheduler.set_host_has_the_thread(false);
        scheduler.unpark_at(clock::now() + SOON, parked(&scheduler, "sleeper"));
        assert!(!is_readable(scheduler.fd(), 0), "nothing was armed yet");
        scheduler.arm_host_timer();
        scheduler.set_host_has_the_thread(true);
        assert!(is_readable(scheduler.fd(), -1));
        assert_eq!(tick(&scheduler), ["sleeper"]);
    }
}

#[test]
fn of_a_deadline_in_the_past() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    scheduler.unpark_at(1, parked(&scheduler, "late"));
    assert!(is_readable(scheduler.fd(), -1));
    assert_eq!(tick(&scheduler), ["late"]);
}

#[test]
fn of_a_deadline_that_came_before_a_later_one_was_set() {
    let _watchdog = Watchdog::start();
    let scheduler = hosted();
    scheduler.unpark_at(clock::now() + SOON, parked(&scheduler, "near"));
    assert!(is_readable(scheduler.fd(), -1));
    // The host has not looked yet, and runs something else that waits.
    scheduler.unpark_at(clock::now() + HOUR, parked(&scheduler, "far"));
    assert!(is_readable(scheduler.fd(), 0), "what was due is due still");
    assert_eq!(tick(&scheduler), ["near"]);
}
