//! What several tests need.
#![allow(dead_code, reason = "each test uses some of it")]

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;

/// Ends the process if it is not dropped in time: a test that hangs is a test that fails.
pub struct Watchdog(#[allow(dead_code, reason = "dropping it is the signal")] Sender<()>);

impl Watchdog {
    pub fn start() -> Self {
        let (alive, end) = channel();
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        std::thread::spawn(move || {
            if end.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
                // Not eprintln!, which the test harness keeps to itself.
                let _ = writeln!(std::io::stderr(), "the test {name} hangs");
                std::process::abort();
            }
        });
        Watchdog(alive)
    }
}

pub type Name = &'static str;

/// A task that has parked.
pub fn parked(scheduler: &Arc<Scheduler<Name>>, name: Name) -> Arc<Task<Name>> {
    let task = Task::new(scheduler.clone(), name);
    assert!(task.begin_park());
    task
}

/// Runs everybody who is ready, in order, and says who that was.
pub fn run_ready(scheduler: &Scheduler<Name>) -> Vec<Name> {
    std::iter::from_fn(|| scheduler.next())
        .map(|task| {
            task.begin_run();
            task.payload
        })
        .collect()
}

/// Waits for events as the native loop does.
pub fn wait_for_events(scheduler: &Scheduler<Name>) {
    let timeout = scheduler.time_to_wait();
    let (fd, mut batch) = scheduler.begin_wait();
    let result = aevent_runtime::reactor::wait(fd, &mut batch, timeout);
    scheduler.take_in(batch, result).unwrap();
}

/// Whether `fd` becomes readable within `timeout` milliseconds; -1: for ever.
pub fn is_readable(fd: RawFd, timeout: i32) -> bool {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid entry.
    match unsafe { libc::poll(&mut entry, 1, timeout) } {
        0 => false,
        1 => true,
        _ => panic!("{}", std::io::Error::last_os_error()),
    }
}

/// The descriptors that are registered with the epoll descriptor `epoll`, by number.
pub fn registered(epoll: RawFd) -> Vec<RawFd> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("tfd:"))
        .map(|rest| {
            let number = rest.split_whitespace().next().unwrap();
            number.parse().unwrap()
        })
        .collect()
}
