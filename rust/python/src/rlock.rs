//! `RLock`: the standard library's, which its owner may take again. The owner is a task, or the OS thread
//! of what runs in none.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::{PyDeprecationWarning, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::lock::{AcquireWait, Raw, deadline};
use crate::run_loop;
use crate::semaphore::Truth;
use crate::wait::Wait;

/// Who the caller is, as far as owning goes: its task, or else its OS thread.
#[inline(always)]
fn identity() -> usize {
    run_loop::current_address().unwrap_or_else(identity_without_task)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn owner_ident() -> usize {
    identity()
}

/// A host's task that has no portal is told from others by the host; what runs outside any task is
/// the OS thread.
#[cold]
fn identity_without_task() -> usize {
    if let Some(event_loop) = run_loop::existing()
        && event_loop.driver() == run_loop::Driver::Host
    {
        // SAFETY: attached, like every caller.
        let py = unsafe { Python::assume_attached() };
        if let Some(host) = event_loop.host(py)
            && let Ok(identity) = host.call_method0(py, "task_identity")
            && let Ok(identity) = identity.extract::<usize>(py)
            && identity != 0
        {
            return identity;
        }
    }
    run_loop::thread_identity()
}

/// See `_core.pyi`.
#[pyclass(module = "_thread", name = "RLock", frozen, subclass, weakref)]
pub struct RLock {
    raw: Raw,
    /// The identity of the owner, 0 for nobody. Written by the owner only.
    owner: AtomicUsize,
    count: AtomicU32,
}

impl RLock {
    #[inline(always)]
    fn take(&self, deadline: Option<u64>) -> PyResult<bool> {
        let me = identity();
        if self.owner.load(Ordering::Relaxed) == me {
            self.count.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        if deadline.is_some() {
            run_loop::breathe_now_and_then()?;
        }
        if !self.raw.acquire(deadline, false)? {
            return Ok(false);
        }
        self.owner.store(me, Ordering::Relaxed);
        self.count.store(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether the caller owns it.
    pub fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == identity()
    }

    /// Releases it wholly for a condition's wait, and returns how often it was held.
    pub fn release_for_wait(&self) -> u32 {
        let count = self.count.swap(0, Ordering::Relaxed);
        self.owner.store(0, Ordering::Relaxed);
        self.raw.release();
        count
    }

    /// Takes it again after a condition's wait, whatever happens.
    pub fn acquire_after_wait(&self, count: u32) -> PyResult<()> {
        self.raw.acquire(Some(NEVER), true)?;
        self.owner.store(identity(), Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
        Ok(())
    }
}

/// Warns as CPython does since 3.13.
#[cold]
fn refuse_arguments_some_day(py: Python<'_>) -> PyResult<()> {
    if py.version_info() < (3, 13) {
        return Ok(());
    }
    let message = c"Passing arguments to RLock is deprecated and will be removed in 3.15";
    PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), message, 1)
}

#[pymethods]
impl RLock {
    /// Takes anything, as CPython's does: a subclass's `__init__` may have arguments.
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        if !args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty()) {
            refuse_arguments_some_day(args.py())?;
        }
        Ok(Self {
            raw: Raw::new(),
            owner: AtomicUsize::new(0),
            count: AtomicU32::new(0),
        })
    }

    #[pyo3(signature = (blocking=Truth(true), timeout=-1.0))]
    fn acquire(&self, blocking: Truth, timeout: f64) -> PyResult<bool> {
        self.take(deadline(blocking.0, Some(timeout))?)
    }

    fn release(&self) -> PyResult<()> {
        if !self.is_mine() {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.owner.store(0, Ordering::Relaxed);
            self.raw.release();
        }
        Ok(())
    }

    fn locked(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    fn __enter__(&self) -> PyResult<bool> {
        self.take(Some(NEVER))
    }

    #[pyo3(signature = (_kind, _error, _traceback, /))]
    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release()
    }

    fn _is_owned(&self) -> bool {
        self.is_mine()
    }

    fn _recursion_count(&self) -> u32 {
        if self.is_mine() {
            self.count.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    fn _release_save(&self) -> PyResult<(u32, usize)> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        let owner = self.owner.load(Ordering::Relaxed);
        Ok((self.release_for_wait(), owner))
    }

    fn _acquire_restore(&self, state: (u32, usize)) -> PyResult<()> {
        self.raw.acquire(Some(NEVER), true)?;
        self.owner.store(state.1, Ordering::Relaxed);
        self.count.store(state.0, Ordering::Relaxed);
        Ok(())
    }

    fn _at_fork_reinit(&self) {
        self.raw.reset();
        self.owner.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
    }

    /// A coroutine's wait for it; `_acquired_by_wait` has to follow.
    fn _acquire_wait(&self) -> Option<Wait> {
        if self.is_mine() {
            self.count.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Wait::new(Box::new(AcquireWait::new(&self.raw))))
    }

    /// The wait is over: the lock is the caller's, as often as `saved` by `_release_save` says.
    #[pyo3(signature = (saved=None))]
    fn _acquired_by_wait(&self, saved: Option<(u32, usize)>) {
        self.owner.store(identity(), Ordering::Relaxed);
        self.count
            .store(saved.map_or(1, |(count, _)| count), Ordering::Relaxed);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        Ok(format!(
            "<{} {} object owner={} count={} at {:p}>",
            if this.locked() { "locked" } else { "unlocked" },
            slf.get_type().fully_qualified_name()?,
            this.owner.load(Ordering::Relaxed),
            this.count.load(Ordering::Relaxed),
            slf.as_ptr()
        ))
    }
}
