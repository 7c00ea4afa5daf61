//! Sleeping and checkpoints of green threads. What coroutines await is in `pause`.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::task::Poll;

use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::{self, Outcome};
use crate::portal;
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, TaskRef, state};
use crate::wait;

/// `time.sleep` in a task.
pub static SLEEP: Definition = Definition::one(c"sleep", sleep);

unsafe extern "C" fn sleep(_module: Object, seconds: Object) -> Object {
    if seconds == ZERO.load(Ordering::Relaxed)
        && run_loop::cooperates()
        && let Some(event_loop) = run_loop::existing()
    {
        return event_loop.yield_briefly(|| sleep_otherwise(seconds));
    }
    sleep_otherwise(seconds)
}

#[inline(never)]
extern "C" fn sleep_otherwise(seconds: Object) -> Object {
    // SAFETY: attached: Python calls us. The argument is borrowed from the caller.
    let (py, seconds) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, seconds))
    };
    raw::give(sleep_for(py, &seconds).map(|()| raw::none()))
}

#[inline(always)]
fn sleep_for(py: Python<'_>, seconds: &Bound<'_, PyAny>) -> Outcome<()> {
    let seconds = sleep_length(seconds)?;
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("sleep()").into());
    };
    if seconds <= 0.0 {
        if state(task).kind == Kind::Host {
            return Ok(portal::checkpoint(py, &task.clone())?);
        }
        wait::check(task)?;
        event_loop.yield_now(py)?;
        return match run_loop::cooperating() {
            Some(task) => wait::check(task),
            None => Ok(()),
        };
    }
    sleep_long(py, event_loop, task.clone(), seconds)
}

#[inline(never)]
fn sleep_long(
    py: Python<'_>,
    event_loop: &run_loop::Loop,
    task: TaskRef,
    seconds: f64,
) -> Outcome<()> {
    let deadline = wait::deadline_after(seconds);
    wait::park_until(py, event_loop, &task, deadline, false, |_| Poll::Pending).map(|_| ())
}

static ZERO: AtomicPtr<pyo3::ffi::PyObject> = AtomicPtr::new(null_mut());

/// The integer 0, of which there is one. Borrowed: CPython keeps it as long as it lives.
#[inline(always)]
fn zero(py: Python<'_>) -> Object {
    let known = ZERO.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let zero = 0i64.into_pyobject(py).map_or(null_mut(), Bound::into_ptr);
    ZERO.store(zero, Ordering::Relaxed);
    zero
}

#[inline(always)]
fn sleep_length(seconds: &Bound<'_, PyAny>) -> PyResult<f64> {
    use pyo3::types::PyFloat;
    // Small integers are unique.
    if seconds.as_ptr() == zero(seconds.py()) {
        return Ok(0.0);
    }
    if let Ok(value) = seconds.cast_exact::<PyFloat>() {
        let value = pyo3::types::PyFloatMethods::value(value);
        if (0.0..1e9).contains(&value) {
            return Ok(value);
        }
    }
    sleep_length_slowly(seconds)
}

#[inline(never)]
fn sleep_length_slowly(seconds: &Bound<'_, PyAny>) -> PyResult<f64> {
    use pyo3::exceptions::{PyOverflowError, PyValueError};
    use pyo3::types::{PyFloat, PyInt};
    let value = if seconds.is_instance_of::<PyFloat>() || seconds.is_instance_of::<PyInt>() {
        seconds.extract::<f64>()?
    } else if let Ok(index) = seconds.call_method0("__index__") {
        index.extract::<f64>()?
    } else {
        return Err(PyTypeError::new_err(format!(
            "'{}' object cannot be interpreted as an integer",
            seconds.get_type().name()?
        )));
    };
    if value.is_nan() {
        return Err(PyValueError::new_err("Invalid value NaN (not a number)"));
    }
    if value < 0.0 {
        return Err(PyValueError::new_err("sleep length must be non-negative"));
    }
    if value > 9_223_372_036.0 {
        return Err(PyOverflowError::new_err(
            "timestamp too large to convert to C _PyTime_t",
        ));
    }
    Ok(value)
}

/// Lets other tasks run, and raises if the running one is cancelled.
#[pyfunction]
pub fn checkpoint(py: Python<'_>) -> PyResult<()> {
    let Some(task) = run_loop::current() else {
        return Err(errors::no_task("checkpoint()"));
    };
    if state(&task).kind == Kind::Host {
        return portal::checkpoint(py, &task);
    }
    wait::check(&task)?;
    let event_loop = run_loop::existing().expect("a task runs on a loop");
    event_loop.yield_now(py)?;
    Ok(wait::check(&task)?)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn breathe() -> PyResult<()> {
    Ok(run_loop::breathe_after_refusal()?)
}

/// Raises if the running task is cancelled.
#[pyfunction]
pub fn checkpoint_if_cancelled() -> PyResult<()> {
    match run_loop::current() {
        Some(task) => Ok(wait::check(&task)?),
        None => Ok(()),
    }
}
