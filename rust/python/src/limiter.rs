//! `CapacityLimiter`: tokens that are lent, each to a known borrower. Semantics trio's.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PySet, PyTuple};

use crate::awaitable;
use crate::errors;
use crate::run_loop;
use crate::task::{Kind, state};
use crate::thread::Task;
use crate::wait::{self, Pollable, Wait};

/// Somebody who waits for a token.
struct Place {
    borrower: Py<PyAny>,
    turn: Mutex<Turn>,
}

struct Turn {
    waker: Waker,
    /// The token is lent to the borrower.
    has_token: bool,
}

impl Place {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

/// See `_core.pyi`.
#[pyclass(module = "aevent", frozen, weakref)]
pub struct CapacityLimiter {
    inner: UnsafeCell<Inner>,
    borrowers: Py<PySet>,
}

struct Inner {
    /// `None`: as many as anybody wants.
    total: Option<usize>,
    waiting: VecDeque<Arc<Place>>,
}

// SAFETY: `inner` is reached with the interpreter attached, whose lock serialises it, and never
// borrowed while Python code runs: the set of borrowers, which asks them for their hashes, is
// changed in between.
unsafe impl Sync for CapacityLimiter {}
// SAFETY: as above.
unsafe impl Send for CapacityLimiter {}

impl CapacityLimiter {
    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.inner.get() }
    }

    fn is_free(&self, py: Python<'_>) -> bool {
        let borrowed = self.borrowers.bind(py).len();
        self.inner().total.is_none_or(|total| borrowed < total)
    }

    /// Lends a token to `borrower`, if one is free and nobody waits: true.
    fn try_lend(&self, borrower: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = borrower.py();
        let borrowers = self.borrowers.bind(py);
        if borrowers.contains(borrower)? {
            return Err(PyRuntimeError::new_err(
                "this borrower is already holding one of this CapacityLimiter's tokens",
            ));
        }
        if !self.is_free(py) || !self.inner().waiting.is_empty() {
            return Ok(false);
        }
        borrowers.add(borrower)?;
        Ok(true)
    }

    /// Lends what is free to those who wait.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        while self.is_free(py)
            && let Some(place) = self.inner().waiting.pop_front()
        {
            self.borrowers.bind(py).add(&place.borrower)?;
            let waker = {
                let mut turn = place.turn();
                turn.has_token = true;
                std::mem::replace(&mut turn.waker, Waker::noop().clone())
            };
            waker.wake();
        }
        Ok(())
    }

    fn take_back(&self, borrower: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = borrower.py();
        if !self.borrowers.bind(py).contains(borrower)? {
            return Err(PyRuntimeError::new_err(
                "this borrower isn't holding any of this CapacityLimiter's tokens",
            ));
        }
        self.borrowers.bind(py).discard(borrower)?;
        self.serve(py)
    }
}

/// Whoever calls: the running task, or the OS thread.
fn caller(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // A host's task is the same one with a portal and without.
    if let Some(task) = run_loop::current()
        && state(&task).kind != Kind::Host
    {
        return Ok(Bound::new(py, Task { task })?.into_any());
    }
    if let Some(host) = run_loop::existing().and_then(|event_loop| event_loop.host(py)) {
        let identity = host.bind(py).call_method0("task_identity")?;
        if identity.is_truthy()? {
            return Ok(identity);
        }
    }
    Ok(PyTuple::new(
        py,
        [
            "thread".into_pyobject(py)?.into_any(),
            run_loop::thread_identity().into_pyobject(py)?.into_any(),
        ],
    )?
    .into_any())
}

/// One wait for a token, by whomever.
struct TokenWait {
    limiter: Py<CapacityLimiter>,
    /// `None`: whoever polls first.
    borrower: Option<Py<PyAny>>,
    place: Option<Arc<Place>>,
    failed: Option<PyErr>,
}

impl TokenWait {
    fn new(limiter: &Bound<'_, CapacityLimiter>, borrower: Option<Py<PyAny>>) -> Self {
        Self {
            limiter: limiter.clone().unbind(),
            borrower,
            place: None,
            failed: None,
        }
    }

    fn begin(&mut self, py: Python<'_>, cx: &Context<'_>) -> PyResult<bool> {
        let borrower = match &self.borrower {
            Some(borrower) => borrower.bind(py).clone(),
            None => caller(py)?,
        };
        let limiter = self.limiter.get();
        if limiter.try_lend(&borrower)? {
            return Ok(true);
        }
        let place = Arc::new(Place {
            borrower: borrower.unbind(),
            turn: Mutex::new(Turn {
                waker: cx.waker().clone(),
                has_token: false,
            }),
        });
        limiter.inner().waiting.push_back(place.clone());
        self.place = Some(place);
        Ok(false)
    }
}

impl Pollable for TokenWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(place) = &self.place {
            let mut turn = place.turn();
            if !turn.has_token {
                turn.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            drop(turn);
            self.place = None;
            return Poll::Ready(());
        }
        Python::attach(|py| match self.begin(py, cx) {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready(()),
            Err(error) => {
                self.failed = Some(error);
                Poll::Ready(())
            }
        })
    }

    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(py.None()),
        }
    }

    fn cancel(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        Python::attach(|py| {
            let limiter = self.limiter.get();
            let has_token = place.turn().has_token;
            let result = if has_token {
                limiter.take_back(place.borrower.bind(py))
            } else {
                limiter
                    .inner()
                    .waiting
                    .retain(|other| !Arc::ptr_eq(other, &place));
                Ok(())
            };
            if let Err(error) = result {
                error.write_unraisable(py, None);
            }
        });
    }
}

impl Drop for TokenWait {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn total(value: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if value.is_instance_of::<PyInt>() {
        if value.lt(0)? {
            return Err(PyValueError::new_err("total_tokens must be >= 0"));
        }
        return Ok(Some(value.extract().unwrap_or(usize::MAX)));
    }
    match value.extract::<f64>() {
        Ok(number) if number == f64::INFINITY => Ok(None),
        _ => Err(PyTypeError::new_err(
            "total_tokens must be an int or math.inf",
        )),
    }
}

#[pymethods]
impl CapacityLimiter {
    #[new]
    fn new(py: Python<'_>, total_tokens: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            inner: UnsafeCell::new(Inner {
                total: total(total_tokens)?,
                waiting: VecDeque::new(),
            }),
            borrowers: PySet::empty(py)?.unbind(),
        })
    }

    #[getter]
    fn total_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.inner().total {
            Some(total) => total.into_pyobject(py)?.into_any(),
            None => f64::INFINITY.into_pyobject(py)?.into_any(),
        })
    }

    #[setter]
    fn set_total_tokens(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner().total = total(value)?;
        self.serve(py)
    }

    #[getter]
    fn borrowed_tokens(&self, py: Python<'_>) -> usize {
        self.borrowers.bind(py).len()
    }

    #[getter]
    fn available_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let borrowed = self.borrowed_tokens(py);
        Ok(match self.inner().total {
            Some(total) => (total as i64 - borrowed as i64)
                .into_pyobject(py)?
                .into_any(),
            None => f64::INFINITY.into_pyobject(py)?.into_any(),
        })
    }

    fn acquire_nowait(&self, py: Python<'_>) -> PyResult<()> {
        self.acquire_on_behalf_of_nowait(&caller(py)?)
    }

    fn acquire_on_behalf_of_nowait(&self, borrower: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.try_lend(borrower)? {
            return Ok(());
        }
        Err(errors::WouldBlock::new_err(()))
    }

    fn acquire(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(TokenWait::new(&slf, None)));
        awaitable::give(slf.py(), wait)
    }

    fn acquire_on_behalf_of(slf: Bound<'_, Self>, borrower: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(TokenWait::new(&slf, Some(borrower))));
        awaitable::give(slf.py(), wait)
    }

    fn sync_acquire(slf: Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut token = Box::new(TokenWait::new(&slf, None));
        wait::wait_until(py, NEVER, false, |cx| token.poll(cx))?;
        token.result(py).map(|_| ())
    }

    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.take_back(&caller(py)?)
    }

    fn release_on_behalf_of(&self, borrower: &Bound<'_, PyAny>) -> PyResult<()> {
        self.take_back(borrower)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<()> {
        Self::sync_acquire(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release(py)
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::acquire(slf)
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Wait> {
        self.release(py)?;
        Ok(Wait::over())
    }

    /// What `statistics` is made of.
    fn _numbers<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(usize, Bound<'py, PyAny>, Bound<'py, PySet>, usize)> {
        let borrowers = PySet::new(py, self.borrowers.bind(py).iter())?;
        Ok((
            borrowers.len(),
            self.total_tokens(py)?,
            borrowers,
            self.inner().waiting.len(),
        ))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "<aevent.CapacityLimiter, {}/{} tokens lent, {} waiting>",
            self.borrowed_tokens(py),
            self.total_tokens(py)?.str()?,
            self.inner().waiting.len()
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: see the `Sync` implementation; the collector's visitors change nothing.
        for place in unsafe { &(*self.inner.get()).waiting } {
            visit.call(&place.borrower)?;
        }
        visit.call(&self.borrowers)
    }

    fn __clear__(&self) {
        drop(std::mem::take(&mut self.inner().waiting));
    }
}
