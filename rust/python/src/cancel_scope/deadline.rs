//! Deadlines as Python gives and gets them: seconds of the clock, which are nanoseconds here.

use aevent_runtime::clock::NEVER;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::wake;
use crate::errors;
use crate::run_loop;
use crate::task::{ScopeRef, state};

pub fn to_nanos(seconds: f64) -> PyResult<u64> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err("a deadline must not be NaN"));
    }
    if seconds <= 0.0 {
        return Ok(0);
    }
    let nanos = seconds * 1e9;
    Ok(if nanos >= (u64::MAX / 2) as f64 {
        NEVER
    } else {
        nanos as u64
    })
}

/// A deadline in nanoseconds as Python's seconds.
pub fn to_seconds(deadline: u64) -> f64 {
    if deadline == NEVER {
        f64::INFINITY
    } else {
        deadline as f64 / 1e9
    }
}

/// A duration in seconds; `None` if it is infinite.
pub fn check_duration(name: &str, seconds: f64) -> PyResult<Option<f64>> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "{name} must be a non-negative number of seconds, not {seconds}"
        )));
    }
    Ok((seconds != f64::INFINITY).then_some(seconds))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn current_effective_deadline(py: Python<'_>) -> PyResult<f64> {
    match run_loop::current().and_then(|task| state(&task).scope.clone()) {
        Some(scope) => effective_deadline(py, &scope),
        None => Ok(f64::INFINITY),
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn deadline_here(py: Python<'_>) -> PyResult<Py<Deadline>> {
    let scope = run_loop::current().and_then(|task| state(&task).scope.clone());
    let scope = scope.ok_or_else(|| errors::no_task("asking for the deadline"))?;
    Py::new(py, Deadline(scope))
}

/// What `current_effective_deadline` says in a scope, for whoever calls it.
#[pyclass(module = "aevent._core", frozen)]
pub struct Deadline(ScopeRef);

#[pymethods]
impl Deadline {
    fn __call__(&self, py: Python<'_>) -> PyResult<f64> {
        effective_deadline(py, &self.0)
    }
}

/// The deadline that applies in a scope: infinite if there is none, minus infinity if it is
/// cancelled already.
fn effective_deadline(py: Python<'_>, scope: &ScopeRef) -> PyResult<f64> {
    if scope.is_cancelled() {
        return Ok(f64::NEG_INFINITY);
    }
    let (deadline, beyond) = scope.effective_deadlines();
    let mut earliest = to_seconds(deadline);
    for (scope, beyond) in beyond {
        let ask = beyond
            .downcast_ref::<Py<PyAny>>()
            .expect("`set_beyond` is given callables");
        let told: f64 = ask.call0(py)?.extract(py)?;
        if told == f64::NEG_INFINITY {
            // What is cancelled there would hear of it a little later. Who was told may count on it
            // that his next wait raises.
            wake(&scope);
        }
        earliest = earliest.min(told);
    }
    Ok(earliest)
}

/// Has what runs in `scope` ask `deadline()`, too, which may be None for no longer.
pub fn set_beyond(scope: &ScopeRef, deadline: &Bound<'_, PyAny>) {
    let beyond = (!deadline.is_none()).then(|| Arc::new(deadline.clone().unbind()) as _);
    scope.set_beyond(beyond);
}
