//! Deadlines as Python gives and gets them: seconds of the clock, which are nanoseconds here.

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::run_loop;
use crate::task::state;

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

/// The deadline that applies to the running task of ours: infinite if there is none, minus infinity
/// if it is cancelled already.
#[pyfunction]
pub fn current_effective_deadline() -> f64 {
    let Some(scope) = run_loop::current().and_then(|task| state(&task).scope.clone()) else {
        return f64::INFINITY;
    };
    if scope.is_cancelled() {
        return f64::NEG_INFINITY;
    }
    to_seconds(scope.effective_deadline())
}
