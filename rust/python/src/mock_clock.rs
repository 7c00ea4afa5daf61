//! The scheduler's time for Python, and the calls by which a test takes it into its hands.

use std::task::{Context, Poll};

use aevent_runtime::clock;
use aevent_runtime::quiet::QuietKey;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::run_loop;
use crate::task::SchedulerRef;
use crate::wait::{Pollable, Wait};

/// Seconds as nanoseconds, for what cannot be infinite.
fn nanos(seconds: f64, what: &str) -> PyResult<u64> {
    if !(0.0..1e9).contains(&seconds) {
        return Err(PyValueError::new_err(format!(
            "{what} must be between 0 and 1e9, not {seconds}"
        )));
    }
    Ok((seconds * 1e9) as u64)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn current_time() -> f64 {
    clock::now() as f64 / 1e9
}

/// See `_core.pyi`.
#[pyfunction]
pub fn current_time_ns() -> u64 {
    clock::now()
}

/// See `_core.pyi`.
#[pyfunction]
pub fn clock_offset_ns() -> i64 {
    clock::now().wrapping_sub(clock::real()) as i64
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (rate, autojump_threshold=None))]
pub fn set_clock(py: Python<'_>, rate: f64, autojump_threshold: Option<f64>) -> PyResult<()> {
    if !(0.0..1e9).contains(&rate) {
        return Err(PyValueError::new_err(format!(
            "rate must be between 0 and 1e9, not {rate}"
        )));
    }
    let autojump = autojump_threshold
        .map(|seconds| nanos(seconds, "autojump_threshold"))
        .transpose()?;
    let event_loop = run_loop::obtain(py)?;
    clock::set_rate(rate);
    event_loop.scheduler.set_autojump(autojump);
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
pub fn jump_clock(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let jump = nanos(seconds, "the seconds to jump by")?;
    clock::jump_to(clock::now().saturating_add(jump));
    run_loop::obtain(py)?.scheduler.clock_has_jumped();
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
pub fn give_up_clock() {
    clock::give_up();
}

/// A wait until nobody else has anything to do.
struct UntilQuiet {
    scheduler: SchedulerRef,
    cushion: u64,
    key: Option<QuietKey>,
}

impl Pollable for UntilQuiet {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.key {
            None => {
                let waker = cx.waker().clone();
                self.key = Some(self.scheduler.wake_when_quiet(self.cushion, waker));
                Poll::Pending
            }
            Some(key) if self.scheduler.is_awaiting_quiet(key, cx.waker()) => Poll::Pending,
            Some(_) => Poll::Ready(()),
        }
    }

    fn cancel(&mut self) {
        // Dropped elsewhere it stays where it is: nobody minds being woken.
        if let Some(key) = self.key.take()
            && self.scheduler.is_mine()
        {
            self.scheduler.forget_quiet(key);
        }
    }
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (cushion=0.0))]
pub fn wait_quiet(py: Python<'_>, cushion: f64) -> PyResult<Wait> {
    Ok(Wait::new(Box::new(UntilQuiet {
        scheduler: run_loop::obtain(py)?.scheduler.clone(),
        cushion: nanos(cushion, "cushion")?,
        key: None,
    })))
}
