//! What an adapter holds to make a host's task wait for one of ours to be unparked.

use std::ptr::null_mut;

use pyo3::prelude::*;

use crate::run_loop;
use crate::task::{Entry, Kind, Payload, TaskRef, state};

/// Calls a function of the host's, once, when it is woken. For `Backend.park`.
///
/// Waking is thread-safe; the callback runs in the scheduler's own thread, in one of its ticks.
#[pyclass(module = "aevent._core", frozen)]
pub struct HostWaker {
    pub task: TaskRef,
}

impl HostWaker {
    /// The waker of a task that has parked in a portal.
    pub fn of(task: TaskRef) -> Self {
        Self { task }
    }
}

#[pymethods]
impl HostWaker {
    /// A waker for a host's coroutine that waits without a portal.
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let event_loop = run_loop::obtain(py)?;
        let task = aevent_runtime::task::Task::new(
            event_loop.scheduler.clone(),
            Payload::new(Kind::Host, Entry::None, null_mut()),
        );
        Ok(Self { task })
    }

    /// Has `callback()` called when the waker is woken. False if it was woken already: then it is
    /// not called, and the caller does not wait.
    fn arm(&self, callback: Py<PyAny>) -> bool {
        if !self.task.is_parked() && !self.task.is_queued() && !self.task.begin_park() {
            return false;
        }
        let former = state(&self.task).resume.replace(callback);
        drop(former);
        true
    }

    /// The caller waits no more, for whatever reason.
    fn disarm(&self) {
        let former = state(&self.task).resume.take();
        drop(former);
        self.task.begin_run_unasked();
    }

    /// Wakes it. Thread-safe.
    fn wake(&self) {
        self.task.unpark();
    }
}
