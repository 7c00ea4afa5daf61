//! `Wait`: what a coroutine awaits, a native one or a host's.

use std::task::{Context, Poll, Waker};

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::{Pollable, Source, SourceWait, check, deadline_after, wait_until};
use crate::run_loop;
use crate::task::TaskRef;
use crate::waker::HostWaker;

/// See `_core.pyi`.
#[pyfunction]
pub fn shielded_checkpoint() -> Wait {
    let mut wait = Wait::new(Box::new(Nothing));
    wait.checkpoint = Checkpoint::Shielded;
    wait
}

/// What need not be waited for.
struct Nothing;

impl Pollable for Nothing {
    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn cancel(&mut self) {}
}

/// One wait of an async task: an awaitable for native tasks, polled by the adapters for those of
/// hosts. Also usable synchronously, with `block()`.
#[pyclass(module = "aevent._core")]
pub struct Wait {
    target: Option<Box<dyn Pollable>>,
    /// What it was for, from its end until somebody has it.
    outcome: Option<PyResult<Py<PyAny>>>,
    /// What it gives instead, if nothing goes wrong.
    value: Option<Py<PyAny>>,
    checkpoint: Checkpoint,
}

/// Whether others run before the coroutine goes on, also if it need not wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checkpoint {
    /// That is the caller's business, or done.
    No,
    /// It has not been polled: if it is over at once, the others run then.
    Due,
    /// The same, but a cancellation is left to whatever is awaited next.
    Shielded,
}

impl Wait {
    /// A wait for anything that can be polled.
    pub fn new(target: Box<dyn Pollable>) -> Self {
        Self {
            target: Some(target),
            outcome: None,
            value: None,
            checkpoint: Checkpoint::No,
        }
    }

    /// A wait that is a checkpoint by itself: what an async method returns.
    ///
    /// Cancellation is raised before anything is taken; what was taken is the caller's even if he is
    /// cancelled while the others run.
    pub fn checkpoint(target: Box<dyn Pollable>) -> Self {
        let mut wait = Self::new(target);
        wait.checkpoint = Checkpoint::Due;
        wait
    }

    /// The same, whose result is `value`.
    pub fn giving(mut self, value: Py<PyAny>) -> Self {
        self.value = Some(value);
        self
    }

    /// A checkpoint and nothing else.
    pub fn checkpoint_only() -> Self {
        Self::checkpoint(Box::new(Nothing))
    }

    /// One that is over, and lets nobody run.
    pub fn over() -> Self {
        Self {
            target: None,
            outcome: None,
            value: None,
            checkpoint: Checkpoint::No,
        }
    }

    /// The same, for `value`.
    pub fn over_with(value: Py<PyAny>) -> Self {
        let mut wait = Self::over();
        wait.outcome = Some(Ok(value));
        wait
    }

    /// A wait for a condition.
    pub fn for_source(source: Box<dyn Source>) -> Self {
        Self::new(Box::new(SourceWait {
            source,
            waiter: None,
        }))
    }

    fn poll_now(&mut self, py: Python<'_>, task: Option<&TaskRef>, cx: &mut Context<'_>) -> bool {
        match &mut self.target {
            None => true,
            Some(target) => {
                if target.poll_for(task, cx).is_ready() {
                    let result = target.result(py);
                    self.target = None;
                    self.outcome = Some(match self.value.take() {
                        Some(value) => result.map(|_| value),
                        None => result,
                    });
                    true
                } else {
                    false
                }
            }
        }
    }

    fn take_outcome(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.outcome.take().unwrap_or_else(|| Ok(py.None()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(mut target) = self.target.take() {
            target.cancel();
        }
    }
}

#[pymethods]
impl Wait {
    /// Whether the wait is over; if not, `waker` is woken when it may be.
    #[pyo3(signature = (waker=None))]
    fn poll(&mut self, py: Python<'_>, waker: Option<&HostWaker>) -> bool {
        let task = waker.map(|waker| &waker.task);
        let waker = match task {
            Some(task) => task.waker(),
            None => Waker::noop().clone(),
        };
        self.poll_now(py, task, &mut Context::from_waker(&waker))
    }

    /// What it was for. Raises what went wrong.
    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.take_outcome(py)
    }

    /// Gives the wait up.
    fn cancel(&mut self) {
        if let Some(mut target) = self.target.take() {
            target.cancel();
        }
    }

    /// Waits synchronously: the running task parks, an OS thread blocks. Returns false when
    /// `timeout` seconds are over.
    #[pyo3(signature = (timeout=None))]
    fn block(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let py = slf.py();
        let deadline = timeout.map_or(NEVER, deadline_after);
        // Borrowed for each poll only: another task may look at the object meanwhile.
        let task = run_loop::cooperating().cloned();
        wait_until(py, deadline, false, |cx| {
            if slf.borrow_mut().poll_now(py, task.as_ref(), cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// `None` while it waits, true when it only lets the others run.
    fn __next__(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.target.is_none() {
            let value = self.take_outcome(py)?;
            return Err(PyStopIteration::new_err((value,)));
        }
        let Some(task) = run_loop::current() else {
            return Err(PyRuntimeError::new_err(
                "this can only be awaited in a task of aevent's native backend",
            ));
        };
        let checkpoint = std::mem::replace(&mut self.checkpoint, Checkpoint::No);
        if checkpoint == Checkpoint::Due
            && let Err(raised) = check(&task)
        {
            let error = PyErr::from(raised);
            self.cancel();
            return Err(error);
        }
        let waker = task.waker_ref();
        if self.poll_now(py, Some(&task), &mut Context::from_waker(&waker)) {
            if checkpoint != Checkpoint::No && matches!(self.outcome, Some(Ok(_))) {
                return Ok(PyBool::new(py, true).to_owned().into_any().unbind());
            }
            let value = self.take_outcome(py)?;
            return Err(PyStopIteration::new_err((value,)));
        }
        if let Err(raised) = check(&task) {
            let error = PyErr::from(raised);
            self.cancel();
            return Err(error);
        }
        Ok(py.None())
    }

    /// A step, as of a coroutine: the method of a native task may be all that it runs.
    fn send(&mut self, py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        self.__next__(py)
    }

    /// Gives the wait up and raises what is thrown in.
    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &mut self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        self.cancel();
        Err(PyErr::from_value(match value {
            Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => value,
            Some(value) => kind.call1((value,))?,
            None if kind.is_callable() => kind.call0()?,
            None => kind,
        }))
    }

    /// Gives the wait up.
    fn close(&mut self) {
        self.cancel();
    }
}
