//! Waiting for descriptors that are not ours: `select`, `poll` and everything on top of them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::descriptor;
use aevent_runtime::reactor::{Interest, OnceKey};
use pyo3::prelude::*;

use crate::errors::{self, Outcome};
use crate::run_loop::{self, Loop};
use crate::task::{SchedulerRef, TaskRef};
use crate::wait::{self, Pollable, Wait};

/// Parks until one of `descriptors` (number, for reading, for writing) may be ready: true; false
/// when `timeout` seconds are over. Those in `urgent` are waited for as to urgent data, too. The caller
/// asks the kernel again what is ready.
///
/// A regular file, which cannot be waited for, counts as ready, and so does a number that is not
/// open: the caller's own call says what is wrong with it.
#[pyfunction]
#[pyo3(signature = (descriptors, timeout=None, urgent=None))]
pub fn wait_descriptors(
    py: Python<'_>,
    descriptors: Vec<(RawFd, bool, bool)>,
    timeout: Option<f64>,
    urgent: Option<Vec<RawFd>>,
) -> PyResult<bool> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("waiting for a descriptor"));
    };
    let task = task.clone();
    let deadline = timeout.map_or(NEVER, wait::deadline_after);
    let scheduler = &event_loop.scheduler;
    let mut keys: Vec<OnceKey> = Vec::with_capacity(descriptors.len());
    let mut failed = false;
    for (fd, read, write) in descriptors {
        let interest = Interest {
            read,
            write,
            urgent: urgent.as_ref().is_some_and(|urgent| urgent.contains(&fd)),
        };
        match scheduler.wait_once(fd, interest, task.clone()) {
            Ok(key) => keys.push(key),
            Err(_) => {
                failed = true;
                break;
            }
        }
    }
    let result = if failed {
        wait::check(&task).map(|()| true)
    } else {
        park_once(py, event_loop, &task, &keys, deadline)
    };
    for key in keys {
        scheduler.end_once(key);
    }
    Ok(result?)
}

/// How many descriptors are waited for singly, in all threads, at the moment or a little earlier.
static WAITS: AtomicUsize = AtomicUsize::new(0);

/// Parks until something is reported, or `deadline`.
#[inline(always)]
fn park_once(
    py: Python<'_>,
    event_loop: &Loop,
    task: &TaskRef,
    keys: &[OnceKey],
    deadline: u64,
) -> Outcome<bool> {
    WAITS.fetch_add(1, Ordering::Relaxed);
    // Not whatever unparks the task: that may be a deadline or a cancellation, and who is told that a
    // descriptor is ready may call what blocks.
    let result = wait::park_until(py, event_loop, task, deadline, false, |_| {
        if keys.iter().any(|key| event_loop.scheduler.has_fired(*key)) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    WAITS.fetch_sub(1, Ordering::Relaxed);
    result
}

/// How a wait for one descriptor ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// Something was reported; the call that waits asks again.
    Reported,
    /// It cannot be waited for: the call would not have to.
    Impossible,
    /// The time is over.
    TimedOut,
}

/// Parks until `fd` may be ready. `Err`: cancelled, interrupted, or EBADF: it was closed meanwhile.
#[inline(never)]
pub fn wait_for(py: Python<'_>, fd: RawFd, interest: Interest, deadline: u64) -> Outcome<Waited> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("waiting for a descriptor").into());
    };
    let task = task.clone();
    let generation = descriptor::generation(fd);
    let Ok(key) = event_loop.scheduler.wait_once(fd, interest, task.clone()) else {
        wait::check(&task)?;
        return Ok(Waited::Impossible);
    };
    let result = park_once(py, event_loop, &task, &[key], deadline);
    event_loop.scheduler.end_once(key);
    if !result? {
        return Ok(Waited::TimedOut);
    }
    if descriptor::generation(fd) != generation {
        return Err(errors::os_error(py, libc::EBADF).into());
    }
    Ok(Waited::Reported)
}

/// A coroutine's wait for one descriptor.
struct DescriptorWait {
    fd: RawFd,
    interest: Interest,
    /// The registration, with the scheduler that has it and the life of the number that is meant.
    begun: Option<(SchedulerRef, OnceKey, u32)>,
    /// The errno of what went wrong.
    failed: i32,
    /// It was closed during the wait.
    was_closed: bool,
}

impl DescriptorWait {
    fn end(&mut self) {
        if let Some((scheduler, key, _)) = self.begun.take() {
            // In another thread, and after the end of the loop's own, there is nothing to undo.
            if scheduler.is_mine() {
                scheduler.end_once(key);
            }
            WAITS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Pollable for DescriptorWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_for(None, cx)
    }

    fn poll_for(&mut self, task: Option<&TaskRef>, _cx: &mut Context<'_>) -> Poll<()> {
        if let Some((scheduler, key, generation)) = &self.begun {
            if !scheduler.has_fired(*key) {
                return Poll::Pending;
            }
            if descriptor::generation(self.fd) != *generation {
                self.failed = libc::EBADF;
                self.was_closed = true;
            }
            self.end();
            return Poll::Ready(());
        }
        let Some(task) = task else {
            // Nobody to unpark.
            self.failed = libc::EINVAL;
            return Poll::Ready(());
        };
        let generation = descriptor::generation(self.fd);
        match task
            .scheduler()
            .wait_once(self.fd, self.interest, task.clone())
        {
            Ok(key) => {
                WAITS.fetch_add(1, Ordering::Relaxed);
                self.begun = Some((task.scheduler().clone(), key, generation));
                Poll::Pending
            }
            Err(error) => {
                self.failed = error.raw_os_error().unwrap_or(libc::EINVAL);
                Poll::Ready(())
            }
        }
    }

    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.failed {
            0 => Ok(py.None()),
            libc::EBADF if self.was_closed => Err(errors::ClosedResourceError::new_err(
                "the descriptor was closed while a task waited for it",
            )),
            errno => Err(errors::os_error(py, errno)),
        }
    }

    fn cancel(&mut self) {
        self.end();
    }
}

impl Drop for DescriptorWait {
    fn drop(&mut self) {
        self.end();
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn descriptor_wait(fd: RawFd, write: bool) -> Wait {
    Wait::new(Box::new(DescriptorWait {
        fd,
        interest: Interest {
            read: !write,
            write,
            urgent: false,
        },
        begun: None,
        failed: 0,
        was_closed: false,
    }))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn notify_closing(fd: RawFd) {
    if fd >= 0 {
        run_loop::close_descriptor(fd);
    }
}

/// Before `fd` is closed: whoever waits for it is woken. Costs next to nothing if nobody does.
#[inline]
pub fn closing(fd: RawFd) {
    if fd >= 0 && WAITS.load(Ordering::Relaxed) != 0 {
        run_loop::close_descriptor(fd);
    }
}
