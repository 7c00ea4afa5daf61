//! `threading.Condition`, for tasks, OS threads and coroutines alike.
//!
//! Waiters are woken first come, first served. Semantics CPython's, with one addition: a waiter that
//! is cancelled after it was notified passes the notification on.

use std::cell::UnsafeCell;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::{WaitQueue, Waiter};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::lock::Lock;
use crate::rlock::RLock;
use crate::stack::Object;
use crate::wait::{self, Pollable, Wait};

/// See `_core.pyi`.
#[pyclass(module = "threading", name = "Condition", frozen, subclass, weakref)]
pub struct Condition {
    /// Replaced by `__init__` only.
    lock: UnsafeCell<Py<PyAny>>,
    queue: WaitQueue,
}

// SAFETY: `lock` is read and replaced with the interpreter attached, whose lock serialises that; see
// `Condition::lock` for what keeps a reader's reference valid.
unsafe impl Sync for Condition {}

/// What was released for a wait, and has to be taken again.
enum Released {
    Lock,
    RLock(u32),
    Other(Option<Py<PyAny>>),
}

/// A coroutine's wait for a notification.
struct NotifiedWait {
    waiter: Option<Waiter>,
}

impl Pollable for NotifiedWait {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        match &mut self.waiter {
            Some(waiter) => waiter.poll(cx),
            None => Poll::Ready(()),
        }
    }

    fn cancel(&mut self) {
        // A notification that has arrived goes to the next waiter.
        self.waiter = None;
    }
}

impl Condition {
    /// The underlying lock. The reference is for the call at hand: nobody calls `__init__` again on a
    /// condition that is in use.
    fn lock(&self) -> &Py<PyAny> {
        // SAFETY: see the `Sync` implementation.
        unsafe { &*self.lock.get() }
    }

    /// The underlying lock. Borrowed.
    #[inline(always)]
    pub fn lock_object(&self) -> Object {
        self.lock().as_ptr()
    }

    /// Those who wait.
    #[inline(always)]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn let_go(&self, py: Python<'_>) -> PyResult<Released> {
        let lock = self.lock().bind(py);
        if let Ok(lock) = lock.cast_exact::<RLock>() {
            if !lock.get().is_mine() {
                return Err(not_owned("wait on"));
            }
            return Ok(Released::RLock(lock.get().release_for_wait()));
        }
        if let Ok(lock) = lock.cast_exact::<Lock>() {
            if !lock.get().release_for_wait() {
                return Err(not_owned("wait on"));
            }
            return Ok(Released::Lock);
        }
        if !self.owned(py)? {
            return Err(not_owned("wait on"));
        }
        match lock.getattr_opt("_release_save")? {
            Some(save) => Ok(Released::Other(Some(save.call0()?.unbind()))),
            None => {
                lock.call_method0("release")?;
                Ok(Released::Other(None))
            }
        }
    }

    fn restore(&self, py: Python<'_>, released: Released) -> PyResult<()> {
        let lock = self.lock().bind(py);
        match released {
            Released::Lock => lock.cast_exact::<Lock>()?.get().acquire_after_wait(),
            Released::RLock(count) => lock.cast_exact::<RLock>()?.get().acquire_after_wait(count),
            Released::Other(Some(saved)) => {
                lock.call_method1("_acquire_restore", (saved,)).map(|_| ())
            }
            Released::Other(None) => lock.call_method0("acquire").map(|_| ()),
        }
    }

    fn owned(&self, py: Python<'_>) -> PyResult<bool> {
        let lock = self.lock().bind(py);
        if let Ok(lock) = lock.cast_exact::<RLock>() {
            return Ok(lock.get().is_mine());
        }
        if let Ok(lock) = lock.cast_exact::<Lock>() {
            return Ok(lock.get().is_held());
        }
        if let Some(is_owned) = lock.getattr_opt("_is_owned")? {
            return is_owned.call0()?.is_truthy();
        }
        // A plain lock cannot tell whose it is; that it is taken has to do.
        if lock.call_method1("acquire", (false,))?.is_truthy()? {
            lock.call_method0("release")?;
            return Ok(false);
        }
        Ok(true)
    }

    fn wait_until(&self, py: Python<'_>, deadline: u64) -> PyResult<bool> {
        let mut waiter = self.queue.listen();
        let released = self.let_go(py)?;
        let result = wait::wait_until(py, deadline, false, |cx| waiter.poll(cx));
        // The waiter must have left the queue, and passed a notification on, before the lock is
        // waited for: whoever is notified next may be the one who holds it.
        let result = match result {
            Ok(true) => {
                waiter.cancel();
                Ok(true)
            }
            Ok(false) => Ok(waiter.cancel()),
            Err(error) => {
                drop(waiter);
                Err(error)
            }
        };
        let restored = self.restore(py, released);
        match (result, restored) {
            (Err(error), _) => Err(error),
            (Ok(_), Err(error)) => Err(error),
            (Ok(notified), Ok(())) => Ok(notified),
        }
    }
}

#[cold]
fn not_owned(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("cannot {what} un-acquired lock"))
}

#[pymethods]
impl Condition {
    /// Takes anything, since a subclass's `__init__` may; it is `__init__` that takes the lock.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Ok(Self {
            lock: UnsafeCell::new(py.get_type::<RLock>().call0()?.unbind()),
            queue: WaitQueue::new(),
        })
    }

    #[pyo3(signature = (lock=None))]
    fn __init__(&self, lock: Option<Py<PyAny>>) {
        if let Some(lock) = lock {
            // SAFETY: see the `Sync` implementation; the former is dropped after it was replaced.
            drop(unsafe { std::mem::replace(&mut *self.lock.get(), lock) });
        }
    }

    /// The underlying lock's.
    #[getter]
    fn acquire<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.lock().bind(py).getattr("acquire")
    }

    /// The underlying lock's.
    #[getter]
    fn release<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().lock().bind(slf.py()).getattr("release")
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> Py<PyAny> {
        self.lock().clone_ref(py)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.lock().bind(py).call_method0("__enter__")
    }

    fn __exit__<'py>(
        &self,
        py: Python<'py>,
        kind: Bound<'py, PyAny>,
        error: Bound<'py, PyAny>,
        traceback: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.lock()
            .bind(py)
            .call_method1("__exit__", (kind, error, traceback))
    }

    fn _is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        self.owned(py)
    }

    /// For whoever builds on `threading.Condition`: lets go of the lock, however often it is held.
    fn _release_save(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let lock = self.lock().bind(py);
        if let Ok(release) = lock.getattr("_release_save") {
            return release.call0().map(Bound::unbind);
        }
        lock.call_method0("release")?;
        Ok(py.None())
    }

    /// Takes the lock again; `state` is what `_release_save` returned.
    fn _acquire_restore(&self, py: Python<'_>, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let lock = self.lock().bind(py);
        match lock.getattr("_acquire_restore") {
            Ok(acquire) => acquire.call1((state,))?,
            Err(_) => lock.call_method0("acquire")?,
        };
        Ok(())
    }

    /// How many wait.
    fn _waiting(&self) -> usize {
        self.queue.len()
    }

    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = match timeout {
            None => NEVER,
            Some(seconds) => wait::deadline_after(seconds),
        };
        self.wait_until(py, deadline)
    }

    #[pyo3(signature = (predicate, timeout=None))]
    fn wait_for<'py>(
        &self,
        py: Python<'py>,
        predicate: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline = match timeout {
            None => NEVER,
            Some(seconds) => wait::deadline_after(seconds),
        };
        loop {
            let result = predicate.call0()?;
            if result.is_truthy()?
                || (deadline != NEVER && aevent_runtime::clock::now() >= deadline)
            {
                return Ok(result);
            }
            self.wait_until(py, deadline)?;
        }
    }

    #[pyo3(signature = (n=1))]
    fn notify(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        if !self.owned(py)? {
            return Err(not_owned("notify on"));
        }
        self.queue.notify(n);
        Ok(())
    }

    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.notify(py, usize::MAX)
    }

    #[pyo3(name = "notifyAll")]
    fn notify_all_old(&self, py: Python<'_>) -> PyResult<()> {
        let category = py.get_type::<pyo3::exceptions::PyDeprecationWarning>();
        PyErr::warn(
            py,
            &category,
            c"notifyAll() is deprecated, use notify_all() instead",
            1,
        )?;
        self.notify_all(py)
    }

    fn _at_fork_reinit(&self, py: Python<'_>) -> PyResult<()> {
        // The parent's waiters are forgotten by the queue itself.
        self.lock().call_method0(py, "_at_fork_reinit")?;
        Ok(())
    }

    /// A coroutine's wait for a notification, begun now; it releases and takes the lock itself.
    fn _notified_wait(&self) -> Wait {
        Wait::new(Box::new(NotifiedWait {
            waiter: Some(self.queue.listen()),
        }))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "<Condition({}, {})>",
            self.lock().bind(py).repr()?,
            self.queue.len()
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.lock())
    }
}
