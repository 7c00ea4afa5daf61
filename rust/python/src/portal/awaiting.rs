//! Synchronous code awaits: the awaitable is driven in place, and what it yields goes where the
//! yields of the task's own coroutine go.

use std::ptr::null_mut;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::prelude::*;

use super::parking::leave;
use super::{Message, host_of, portal_of};
use crate::coroutine;
use crate::errors;
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, TaskRef, state};

/// Sends or throws `incoming` into `target`.
pub(super) fn forward(
    py: Python<'_>,
    target: &Bound<'_, PyAny>,
    incoming: PyResult<Py<PyAny>>,
) -> Message {
    match incoming {
        Ok(value) => {
            let mut out: Object = null_mut();
            // SAFETY: both are valid objects; the result is a new reference or null.
            let outcome = unsafe { ffi::PyIter_Send(target.as_ptr(), value.as_ptr(), &mut out) };
            match outcome {
                ffi::PySendResult::PYGEN_NEXT => {
                    // SAFETY: a new reference.
                    Message::Yield(unsafe { Bound::from_owned_ptr(py, out) }.unbind())
                }
                ffi::PySendResult::PYGEN_RETURN => {
                    // SAFETY: a new reference.
                    Message::Return(unsafe { Bound::from_owned_ptr(py, out) }.unbind())
                }
                ffi::PySendResult::PYGEN_ERROR => Message::Raise(PyErr::fetch(py)),
            }
        }
        Err(error) => {
            let throw = match target.getattr_opt("throw") {
                Ok(Some(throw)) => throw,
                // A plain iterator has none: the error is raised where it is awaited.
                Ok(None) => return Message::Raise(error),
                Err(error) => return Message::Raise(error),
            };
            match throw.call1((error.into_value(py),)) {
                Ok(value) => Message::Yield(value.unbind()),
                Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                    match error.value(py).getattr("value") {
                        Ok(value) => Message::Return(value.unbind()),
                        Err(error) => Message::Raise(error),
                    }
                }
                Err(error) => Message::Raise(error),
            }
        }
    }
}

/// Drives `awaitable` from synchronous code in a task whose coroutines we step or a host steps.
#[pyfunction]
pub fn await_here(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let Some(task) = run_loop::current() else {
        return Err(errors::no_task("aevent.await_()"));
    };
    if state(&task).kind == Kind::Host {
        return await_in_host(py, iterator);
    }
    await_natively(py, iterator)
}

/// `await_` in a host's task: the awaitable's yields go to the host.
pub fn await_in_host(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let mut incoming = Ok(py.None());
    loop {
        match forward(py, iterator, incoming) {
            Message::Yield(value) => {
                let event_loop =
                    run_loop::existing().ok_or_else(|| errors::no_task("aevent.await_()"))?;
                let me = event_loop
                    .take_current()
                    .ok_or_else(|| errors::no_task("aevent.await_()"))?;
                let task = me.clone();
                leave(py, event_loop, me, Message::Yield(value))?;
                incoming = portal_of(py, &task)
                    .and_then(|portal| portal.get().inner().incoming.take())
                    .unwrap_or(Ok(py.None()));
            }
            Message::Return(value) => return Ok(value),
            Message::Raise(error) => return Err(error),
            Message::None | Message::Park | Message::Pause => {
                return Err(PyRuntimeError::new_err("an awaitable gave no answer"));
            }
        }
    }
}

/// `await_` in a task of ours: what the awaitable yields tells how long to park.
pub fn await_natively(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let event_loop = run_loop::existing().ok_or_else(|| errors::no_task("aevent.await_()"))?;
    let mut incoming = Ok(py.None());
    loop {
        match forward(py, iterator, incoming) {
            Message::Yield(value) => {
                let value = value.bind(py);
                let result = if value.is_none() {
                    event_loop.park(py).map_err(PyErr::from)
                } else if value.is(pyo3::types::PyBool::new(py, true)) {
                    event_loop.yield_now(py).map_err(PyErr::from)
                } else {
                    Err(coroutine::foreign_yield(value))
                };
                incoming = result.map(|()| py.None());
            }
            Message::Return(value) => return Ok(value),
            Message::Raise(error) => return Err(error),
            Message::None | Message::Park | Message::Pause => {
                return Err(PyRuntimeError::new_err("an awaitable gave no answer"));
            }
        }
    }
}

/// A checkpoint of the host's, from synchronous code in its task.
#[inline(never)]
pub fn checkpoint(py: Python<'_>, task: &TaskRef) -> PyResult<()> {
    let Some(host) = host_of(py, task) else {
        return Err(errors::no_task("a checkpoint"));
    };
    let coroutine = host.call_method1(py, "sleep", (0,))?;
    await_in_host(py, coroutine.bind(py)).map(|_| ())
}
