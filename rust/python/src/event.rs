//! `threading.Event`, for tasks, OS threads and coroutines alike. Semantics CPython's.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::{WaitQueue, Waiter};
use pyo3::exceptions::PyDeprecationWarning;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::awaitable;
use crate::run_loop;
use crate::wait::{self, Pollable, Wait};

/// What an event shares with those who wait for it.
struct Shared {
    flag: AtomicBool,
    queue: WaitQueue,
}

impl Shared {
    fn new(flag: bool) -> Arc<Self> {
        Arc::new(Self {
            flag: AtomicBool::new(flag),
            queue: WaitQueue::new(),
        })
    }

    #[inline(always)]
    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// One wait for an event, by whomever.
///
/// That the waiter was notified counts even if the flag was cleared since. A notification is never
/// passed on, as a dropped [`Waiter`] would: each was meant for all who waited then, and whoever
/// has come since is not to be woken by it. Hence `Waiter::cancel`, everywhere.
struct EventWait {
    shared: Arc<Shared>,
    waiter: Option<Waiter>,
}

impl EventWait {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            waiter: None,
        }
    }

    /// Leaves the queue. Whether the event was set during the wait.
    fn leave(&mut self) -> bool {
        self.waiter.take().is_some_and(Waiter::cancel)
    }
}

impl Pollable for EventWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Listen first and look then: see `WaitQueue`.
        let waiter = self
            .waiter
            .get_or_insert_with(|| self.shared.queue.listen());
        if self.shared.is_set() {
            self.leave();
            return Poll::Ready(());
        }
        waiter.poll(cx)
    }

    fn cancel(&mut self) {
        self.leave();
    }
}

impl Drop for EventWait {
    fn drop(&mut self) {
        self.leave();
    }
}

/// See `_core.pyi`.
#[pyclass(module = "threading", name = "Event", frozen, subclass, weakref)]
pub struct Event {
    /// Replaced in the child of a fork only.
    shared: UnsafeCell<Arc<Shared>>,
}

// SAFETY: `shared` is cloned or replaced by methods only, which run with the interpreter attached;
// its lock serialises them, and none of them keeps a borrow across anything that could release it.
unsafe impl Sync for Event {}

impl Event {
    #[inline(always)]
    fn is_set(&self) -> bool {
        self.shared().is_set()
    }

    #[inline(always)]
    fn shared(&self) -> &Arc<Shared> {
        // SAFETY: see the `Sync` implementation.
        unsafe { &*self.shared.get() }
    }

    #[inline(never)]
    fn wait_slow(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = timeout.map_or(NEVER, wait::deadline_after);
        // With a reference of its own: nothing of `self` is borrowed while others run.
        let mut event_wait = EventWait::new(self.shared().clone());
        if wait::wait_until(py, deadline, false, |cx| event_wait.poll(cx))? {
            return Ok(true);
        }
        if event_wait.leave() {
            return Ok(true);
        }
        if timeout.is_some_and(|seconds| seconds <= 0.0) {
            breathe(py)?;
        }
        Ok(event_wait.shared.is_set())
    }
}

/// Lets other tasks run if the running one has used its time slice up: for a wait with no time to
/// wait. Real threads are preempted, so `while not event.wait(0): …` makes progress there.
pub fn breathe(py: Python<'_>) -> PyResult<()> {
    if !run_loop::cooperates() {
        return Ok(());
    }
    run_loop::existing().map_or(Ok(()), |event_loop| Ok(event_loop.breathe(py)?))
}

/// The class of `object` as `threading`'s reprs show it: with its module, `__main__` included.
pub fn class_name(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let kind = object.get_type();
    Ok(format!("{}.{}", kind.module()?, kind.qualname()?))
}

#[pymethods]
impl Event {
    /// Takes anything, since a subclass's `__init__` may; it is `__init__` that checks.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            shared: UnsafeCell::new(Shared::new(false)),
        }
    }

    fn __init__(&self) {
        self.clear();
    }

    #[pyo3(name = "is_set")]
    fn ask(&self) -> PyResult<bool> {
        let set = self.is_set();
        if !set {
            run_loop::breathe_after_refusal()?;
        }
        Ok(set)
    }

    #[pyo3(name = "isSet")]
    fn is_set_old(&self, py: Python<'_>) -> PyResult<bool> {
        PyErr::warn(
            py,
            &py.get_type::<PyDeprecationWarning>(),
            c"isSet() is deprecated, use is_set() instead",
            1,
        )?;
        Ok(self.is_set())
    }

    fn set(&self) {
        let shared = self.shared();
        shared.flag.store(true, Ordering::Release);
        shared.queue.notify_all();
    }

    fn clear(&self) {
        self.shared().flag.store(false, Ordering::Release);
    }

    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        run_loop::breathe_now_and_then()?;
        if self.is_set() {
            return Ok(true);
        }
        self.wait_slow(py, timeout)
    }

    /// The parent's waiters do not exist here; they are forgotten, not woken.
    fn _at_fork_reinit(&self) {
        let fresh = Shared::new(self.is_set());
        // SAFETY: see the `Sync` implementation; a wait keeps a reference of its own.
        std::mem::forget(unsafe { std::mem::replace(&mut *self.shared.get(), fresh) });
    }

    /// A coroutine's wait for it.
    fn _wait(&self) -> Wait {
        Wait::new(Box::new(EventWait::new(self.shared().clone())))
    }

    /// See `_core.pyi`.
    fn async_wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(EventWait::new(self.shared().clone())));
        awaitable::give(py, wait.giving(awaitable::truth(py)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!(
            "<{} at {:p}: {}>",
            class_name(slf)?,
            slf.as_ptr(),
            if slf.get().is_set() { "set" } else { "unset" }
        ))
    }
}
