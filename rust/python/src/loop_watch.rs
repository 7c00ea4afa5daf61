//! What a watchdog in another OS thread may ask of a loop.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use aevent_runtime::clock;
use pyo3::prelude::*;

use crate::run_loop::{self, Loop};
use crate::task::SchedulerRef;
use crate::thread::Task;

/// See `_core.pyi`.
#[pyclass(module = "aevent._core", frozen)]
pub struct LoopWatch {
    scheduler: SchedulerRef,
    /// Null once the watch is over.
    event_loop: AtomicPtr<Loop>,
    made: u64,
}

#[pymethods]
impl LoopWatch {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let event_loop = run_loop::obtain(py)?;
        Ok(Self {
            scheduler: event_loop.scheduler.clone(),
            event_loop: AtomicPtr::new(std::ptr::from_ref(event_loop).cast_mut()),
            made: clock::coarse(),
        })
    }

    fn held(&self) -> f64 {
        if self.scheduler.waits() {
            return 0.0;
        }
        let since = self.scheduler.looked().max(self.made);
        clock::coarse().saturating_sub(since) as f64 / 1e9
    }

    fn running_task(&self) -> Option<Task> {
        let event_loop = self.event_loop.load(Ordering::Relaxed);
        // SAFETY: null, or the loop of the thread that made this, which says `end` before it ends.
        // The caller is attached, so that thread is not in the middle of changing who runs.
        let event_loop = unsafe { event_loop.as_ref() }?;
        event_loop.current_task().map(|task| Task { task })
    }

    fn end(&self) {
        self.event_loop.store(null_mut(), Ordering::Relaxed);
    }
}
