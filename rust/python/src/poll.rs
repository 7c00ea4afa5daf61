//! Waiting for descriptors that are not ours: `select`, `poll` and everything on top of them.

use std::os::fd::RawFd;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use aevent_runtime::reactor::{Interest, OnceKey};
use pyo3::prelude::*;

use crate::errors;
use crate::run_loop;
use crate::wait;

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
        // Not whatever unparks the task: that may be a deadline or a cancellation, and who is told
        // that a descriptor is ready may call what blocks.
        wait::park_until(py, event_loop, &task, deadline, false, |_| {
            if keys.iter().any(|key| scheduler.has_fired(*key)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    };
    for key in keys {
        scheduler.end_once(key);
    }
    Ok(result?)
}
