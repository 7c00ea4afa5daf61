//! `TaskEvent`: an event for the async tasks of one loop, and nobody else.
//!
//! What anyio's primitives and streams wait with. Whether a task was told or cancelled first decides
//! what its wait says, as in trio: whoever sets the event may have handed something over with it.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyBaseException, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple};

use crate::errors;
use crate::run_loop;
use crate::task::TaskRef;
use crate::wait;

/// A task that waits.
struct Waiting {
    task: TaskRef,
    /// It was told.
    told: AtomicBool,
    /// It waits no more.
    gone: AtomicBool,
}

struct Inner {
    set: bool,
    waiting: Vec<Arc<Waiting>>,
}

/// See `_core.pyi`.
#[pyclass(module = "aevent._core", frozen, subclass, weakref)]
pub struct TaskEvent(UnsafeCell<Inner>);

// SAFETY: `inner` is borrowed for single reads and writes with the interpreter attached, whose lock
// serialises them.
unsafe impl Sync for TaskEvent {}
// SAFETY: as above.
unsafe impl Send for TaskEvent {}

impl TaskEvent {
    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.0.get() }
    }

    fn forget(&self, waiting: &Arc<Waiting>) {
        waiting.gone.store(true, Ordering::Relaxed);
        let all = &mut self.inner().waiting;
        // Hardly ever more than a few; many that are cancelled one by one, the last first or the
        // first first, are found at either end.
        if all.last().is_some_and(|last| Arc::ptr_eq(last, waiting)) {
            all.pop();
        } else if let Some(at) = all.iter().position(|other| Arc::ptr_eq(other, waiting)) {
            all.remove(at);
        }
    }
}

#[pymethods]
impl TaskEvent {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(UnsafeCell::new(Inner {
            set: false,
            waiting: Vec::new(),
        }))
    }

    fn is_set(&self) -> bool {
        self.inner().set
    }

    fn set(&self) {
        let inner = self.inner();
        inner.set = true;
        for waiting in std::mem::take(&mut inner.waiting) {
            // One that is to be cancelled was so before it was told.
            if !wait::is_to_raise(&waiting.task) {
                waiting.told.store(true, Ordering::Relaxed);
            }
            waiting.task.unpark();
        }
    }

    /// How many wait.
    fn _waiters(&self) -> usize {
        self.inner().waiting.len()
    }

    fn wait(slf: Bound<'_, Self>) -> TaskEventWait {
        TaskEventWait {
            event: slf.unbind(),
            waiting: None,
            yielded: false,
        }
    }
}

/// One wait: a coroutine whose only step is to wait.
#[pyclass(module = "aevent._core")]
struct TaskEventWait {
    event: Py<TaskEvent>,
    waiting: Option<Arc<Waiting>>,
    /// The event was set already: the others have been let run.
    yielded: bool,
}

impl TaskEventWait {
    fn give_up(&mut self) {
        if let Some(waiting) = self.waiting.take()
            && !waiting.told.load(Ordering::Relaxed)
            && !waiting.gone.load(Ordering::Relaxed)
        {
            self.event.get().forget(&waiting);
        }
    }
}

impl Drop for TaskEventWait {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[pymethods]
impl TaskEventWait {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// `None` while it waits, true when it only lets the others run.
    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(task) = run_loop::current() else {
            return Err(errors::no_task("waiting for an event"));
        };
        if let Some(waiting) = &self.waiting {
            if waiting.told.load(Ordering::Relaxed) {
                self.waiting = None;
                return Ok(None);
            }
            if let Err(raised) = wait::check(&task) {
                let error = PyErr::from(raised);
                self.give_up();
                return Err(error);
            }
            return Ok(Some(py.None()));
        }
        if self.event.get().is_set() {
            if !std::mem::replace(&mut self.yielded, true) {
                return Ok(Some(PyBool::new(py, true).to_owned().into_any().unbind()));
            }
            wait::check(&task)?;
            return Ok(None);
        }
        wait::check(&task)?;
        let waiting = Arc::new(Waiting {
            task,
            told: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        self.event.get().inner().waiting.push(waiting.clone());
        self.waiting = Some(waiting);
        Ok(Some(py.None()))
    }

    fn send(&mut self, py: Python<'_>, _value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        match self.__next__(py)? {
            Some(value) => Ok(value),
            None => Err(PyStopIteration::new_err(())),
        }
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &mut self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        self.give_up();
        Err(PyErr::from_value(match value {
            Some(value) if value.is_instance_of::<PyBaseException>() => value,
            _ => kind,
        }))
    }

    fn close(&mut self) {
        self.give_up();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event)
    }
}
