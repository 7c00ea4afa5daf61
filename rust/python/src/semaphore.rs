//! `threading.Semaphore` and `threading.BoundedSemaphore`, for tasks, OS threads and coroutines
//! alike.
//!
//! Semantics CPython's, with one promise more: first come, first served. A permit that is released
//! while somebody waits is handed to whoever has waited longest.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::{self, Acquire};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::awaitable;
use crate::event;
use crate::run_loop;
use crate::wait::{self, Pollable, Wait};

/// An argument that is asked for its truth, as Python code does with a flag: `acquire(0)` is as
/// good as `acquire(False)`.
#[derive(Clone, Copy)]
pub struct Truth(pub bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Truth {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Self)
    }
}

/// Any Python integer, cut to what fits.
#[derive(Clone, Copy)]
struct Count(i64);

impl Count {
    /// Nobody can tell more permits than that from infinitely many.
    fn permits(self) -> u32 {
        u32::try_from(self.0).unwrap_or(if self.0 < 0 { 0 } else { u32::MAX })
    }

    /// Checks that a release is one.
    fn released(self) -> PyResult<u32> {
        if self.0 < 1 {
            return Err(PyValueError::new_err("n must be one or more"));
        }
        Ok(self.permits())
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Ok(value) => Ok(Self(value)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                Ok(Self(if object.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Waits for a permit as whoever the caller is. True: it is the caller's.
///
/// False at `deadline`, unless one was handed over in the meantime. On `Err` such a permit was
/// given back, to the next who waits. The caller's own caller keeps the semaphore alive.
pub fn wait_for_permit(
    py: Python<'_>,
    semaphore: &wait_queue::Semaphore,
    deadline: u64,
) -> PyResult<bool> {
    let mut acquire = semaphore.acquire_ref();
    match wait::wait_until(py, deadline, false, |cx| acquire.poll(cx)) {
        Ok(true) => Ok(true),
        Ok(false) => Ok(acquire.cancel()),
        Err(error) => {
            if acquire.cancel() {
                semaphore.release(1);
            }
            Err(error)
        }
    }
}

/// A coroutine's wait for a permit. When it is over, the permit is the coroutine's.
pub struct PermitWait {
    semaphore: wait_queue::Semaphore,
    /// `None` once the permit was reported or the wait was given up.
    acquire: Option<Acquire>,
}

impl PermitWait {
    /// Takes its place in the queue when it is polled first.
    pub fn new(semaphore: &wait_queue::Semaphore) -> Self {
        Self {
            semaphore: semaphore.clone(),
            acquire: Some(semaphore.acquire()),
        }
    }
}

impl Pollable for PermitWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(acquire) = &mut self.acquire else {
            return Poll::Ready(());
        };
        let result = acquire.poll(cx);
        if result.is_ready() {
            // Dropping it leaves a permit that was reported with the caller.
            self.acquire = None;
        }
        result
    }

    fn cancel(&mut self) {
        if let Some(acquire) = self.acquire.take()
            && acquire.cancel()
        {
            self.semaphore.release(1);
        }
    }
}

/// See `_core.pyi`.
#[pyclass(module = "threading", name = "Semaphore", frozen, subclass, weakref)]
pub struct Semaphore {
    semaphore: wait_queue::Semaphore,
}

impl Semaphore {
    fn create() -> Self {
        Self {
            semaphore: wait_queue::Semaphore::new(1),
        }
    }

    fn initialise(&self, value: Count) -> PyResult<()> {
        if value.0 < 0 {
            return Err(PyValueError::new_err(
                "semaphore initial value must be >= 0",
            ));
        }
        while self.semaphore.try_acquire() {}
        self.give(value.permits());
        Ok(())
    }

    /// Releases `count` permits, or as many as can be counted.
    fn give(&self, count: u32) {
        let semaphore = &self.semaphore;
        if count > 0 && !semaphore.try_release(count, u32::MAX) {
            // There are free permits, so nobody waits, and as we are attached no other release comes
            // between.
            semaphore.try_release(u32::MAX - semaphore.permits(), u32::MAX);
        }
    }

    #[inline(never)]
    fn acquire_slow(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        if !blocking {
            if timeout.is_some() {
                return Err(PyValueError::new_err(
                    "can't specify timeout for non-blocking acquire",
                ));
            }
            let acquired = self.semaphore.try_acquire();
            if !acquired {
                run_loop::breathe_after_refusal()?;
            }
            return Ok(acquired);
        }
        let deadline = timeout.map_or(NEVER, wait::deadline_after);
        if wait_for_permit(py, &self.semaphore, deadline)? {
            return Ok(true);
        }
        if timeout.is_some_and(|seconds| seconds <= 0.0) {
            event::breathe(py)?;
        }
        Ok(false)
    }
}

fn describe(slf: &Bound<'_, PyAny>, value: &str) -> PyResult<String> {
    Ok(format!(
        "<{} at {:p}: value={value}>",
        event::class_name(slf)?,
        slf.as_ptr(),
    ))
}

#[pymethods]
impl Semaphore {
    /// Takes anything, since a subclass's `__init__` may; it is `__init__` that checks.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::create()
    }

    #[pyo3(signature = (value=Count(1)))]
    fn __init__(&self, value: Count) -> PyResult<()> {
        self.initialise(value)
    }

    #[pyo3(
        signature = (blocking=Truth(true), timeout=None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<f64>) -> PyResult<bool> {
        if blocking.0 {
            run_loop::breathe_now_and_then()?;
        }
        if timeout.is_none() && self.semaphore.try_acquire() {
            return Ok(true);
        }
        self.acquire_slow(py, blocking.0, timeout)
    }

    #[pyo3(
        signature = (blocking=Truth(true), timeout=None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn __enter__(&self, py: Python<'_>, blocking: Truth, timeout: Option<f64>) -> PyResult<bool> {
        self.acquire(py, blocking, timeout)
    }

    /// Calls `release` as the object's class has it.
    #[pyo3(signature = (_kind, _error, _traceback, /))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if slf.is_exact_instance_of::<Self>() {
            slf.get().give(1);
            return Ok(());
        }
        slf.call_method0(pyo3::intern!(slf.py(), "release"))
            .map(drop)
    }

    #[pyo3(signature = (n=Count(1)), text_signature = "($self, n=1)")]
    fn release(&self, n: Count) -> PyResult<()> {
        self.give(n.released()?);
        Ok(())
    }

    /// See `_core.pyi`.
    fn async_acquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(PermitWait::new(&self.semaphore)));
        awaitable::give(py, wait.giving(awaitable::truth(py)))
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(PermitWait::new(&slf.get().semaphore)));
        awaitable::give(slf.py(), wait.giving(slf.into_any().unbind()))
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Wait> {
        Self::__exit__(slf, _kind, _error, _traceback)?;
        Ok(Wait::over())
    }

    /// How many permits are free.
    #[getter]
    fn _value(&self) -> u32 {
        self.semaphore.permits()
    }

    /// How many wait for one.
    fn _waiters(&self) -> u32 {
        self.semaphore.waiters()
    }

    /// A coroutine's wait for a permit. When it is over, the permit is the coroutine's.
    fn _acquire_wait(&self) -> Wait {
        Wait::new(Box::new(PermitWait::new(&self.semaphore)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        describe(slf, &slf.get()._value().to_string())
    }
}

/// See `_core.pyi`.
#[pyclass(
    module = "threading",
    name = "BoundedSemaphore",
    extends = Semaphore,
    frozen,
    subclass
)]
pub struct BoundedSemaphore {
    /// Written by `__init__`.
    initial: AtomicU32,
}

#[pymethods]
impl BoundedSemaphore {
    /// As `Semaphore`'s.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Semaphore::create()).add_subclass(Self {
            initial: AtomicU32::new(1),
        })
    }

    #[pyo3(signature = (value=Count(1)))]
    fn __init__(slf: &Bound<'_, Self>, value: Count) -> PyResult<()> {
        slf.as_super().get().initialise(value)?;
        slf.get().initial.store(value.permits(), Ordering::Relaxed);
        Ok(())
    }

    #[pyo3(signature = (n=Count(1)), text_signature = "($self, n=1)")]
    fn release(slf: &Bound<'_, Self>, n: Count) -> PyResult<()> {
        let count = n.released()?;
        let semaphore = &slf.as_super().get().semaphore;
        // Asked for here, since the runtime counts what stays free, and CPython what is released,
        // be it handed over or not. Nobody comes between: we are attached.
        let room = slf.get()._initial_value() - semaphore.permits().min(slf.get()._initial_value());
        if count > room || !semaphore.try_release(count, slf.get()._initial_value()) {
            return Err(PyValueError::new_err("Semaphore released too many times"));
        }
        Ok(())
    }

    #[getter]
    fn _initial_value(&self) -> u32 {
        self.initial.load(Ordering::Relaxed)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        describe(
            slf,
            &format!(
                "{}/{}",
                slf.as_super().get()._value(),
                slf.get()._initial_value()
            ),
        )
    }
}
