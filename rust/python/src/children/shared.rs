//! What is known of the children of a task group or of a runner: how many have not ended, and how those
//! failed that have.

use std::cell::UnsafeCell;
use std::sync::Arc;

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::fork;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::ChildrenRef;
use crate::errors;
use crate::finish;
use crate::forest;
use crate::task::{ScopeRef, TaskRef};

/// The state behind [`Children`](super::Children).
pub struct Shared {
    inner: UnsafeCell<Inner>,
    /// Woken each time the number of children changes to something a waiter may want.
    changed: Arc<WaitQueue>,
}

pub(super) struct Inner {
    /// Above every child's own scope.
    pub(super) scope: ScopeRef,
    /// Children that have not ended, and how many of them nobody waits for.
    pub(super) pending: usize,
    pub(super) daemons: usize,
    errors: Vec<PyErr>,
    /// What a child was cancelled with that has not ended in the child's own scope.
    pub(super) cancelled: Option<PyErr>,
    /// A runner's threads report their exceptions themselves.
    keeps_errors: bool,
    /// The process in which these children live.
    generation: u32,
    /// Nobody will be started any more; those who run are waited for.
    pub(super) settling: bool,
    pub(super) closed: bool,
}

impl Inner {
    /// Whether a child has failed, or was cancelled for another scope than its own.
    pub(super) fn has_failed(&self) -> bool {
        !self.errors.is_empty() || self.cancelled.is_some()
    }

    /// In the child of a fork: none of the children exists here.
    #[cold]
    fn forget_parents(&mut self) {
        self.generation = fork::generation();
        self.pending = 0;
        self.daemons = 0;
        std::mem::forget(std::mem::take(&mut self.errors));
        std::mem::forget(self.cancelled.take());
        std::mem::forget(std::mem::replace(&mut self.scope, Scope::root()));
    }
}

// SAFETY: `inner` is reached with the interpreter attached, by functions that neither switch nor run
// Python code while they borrow it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    #[allow(clippy::mut_from_ref)]
    pub(super) fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        let inner = unsafe { &mut *self.inner.get() };
        if inner.generation != fork::generation() {
            inner.forget_parents();
        }
        inner
    }

    /// The scope above every child's own.
    pub fn scope(&self) -> ScopeRef {
        self.inner().scope.clone()
    }

    /// One child more.
    pub fn child_started(&self, daemon: bool) {
        let inner = self.inner();
        inner.pending += 1;
        inner.daemons += usize::from(daemon);
    }

    /// A task of ours has ended.
    pub fn child_finished(
        &self,
        py: Python<'_>,
        task: &TaskRef,
        scope: Option<&ScopeRef>,
        daemon: bool,
        result: PyResult<Py<PyAny>>,
    ) {
        if self.inner().keeps_errors {
            let result = match result {
                Ok(value) => refuse_coroutine(value.bind(py)),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                // Not `value()`: until Python 3.12 that has not got its traceback yet.
                let error = error.into_value(py).into_bound(py).into_any();
                let (cancelled, rest) = errors::split(&error);
                if let Some(rest) = rest {
                    self.fail(PyErr::from_value(rest));
                }
                match (cancelled, scope) {
                    (None, _) => {}
                    (Some(_), Some(scope)) if absorbs(scope) => scope.note_caught(),
                    (Some(error), _) => {
                        // It passes through the group to the scope that has caused it. Raised for no
                        // scope at all, it ends the group, which then absorbs it.
                        let first = self.inner().cancelled.is_none();
                        if first {
                            self.inner().cancelled = Some(PyErr::from_value(error));
                        }
                        self.cancel();
                        self.changed.notify_all();
                    }
                }
            }
        } else {
            finish::report_unraisable(py, task, result);
        }
        self.child_gone(daemon);
    }

    /// The children of a group whose scope is entered.
    pub fn below(scope: ScopeRef) -> ChildrenRef {
        Self::new(scope, true)
    }

    pub(super) fn new(scope: ScopeRef, keeps_errors: bool) -> ChildrenRef {
        let is_root = scope.parent().is_none();
        let children = Arc::new(Self {
            inner: UnsafeCell::new(Inner {
                scope,
                pending: 0,
                daemons: 0,
                errors: Vec::new(),
                cancelled: None,
                keeps_errors,
                generation: fork::generation(),
                settling: false,
                closed: false,
            }),
            changed: Arc::new(WaitQueue::new()),
        });
        if is_root {
            forest::plant(&children);
        }
        children
    }

    /// Keeps `error` and cancels the siblings.
    pub fn fail(&self, error: PyErr) {
        self.inner().errors.push(error);
        self.cancel();
        self.changed.notify_all();
    }

    /// Cancels every child.
    pub fn cancel(&self) {
        let woken = self.inner().scope.cancel();
        for task in woken {
            task.unpark_owned();
        }
    }

    /// Whether nobody is left, daemons included.
    pub fn is_empty(&self) -> bool {
        self.inner().pending == 0
    }

    /// Who is told when that has changed.
    pub fn changed(&self) -> Arc<WaitQueue> {
        self.changed.clone()
    }

    /// The exceptions of children, which are forgotten here.
    pub fn take_errors(&self) -> Vec<PyErr> {
        std::mem::take(&mut self.inner().errors)
    }

    /// What a child was cancelled with, for a scope further out.
    pub fn take_cancelled(&self) -> Option<PyErr> {
        self.inner().cancelled.take()
    }

    /// Raises unless children may be started.
    pub fn check_open(&self) -> PyResult<()> {
        if self.inner().closed {
            return Err(PyRuntimeError::new_err(
                "this task group or runner is closed: nothing can be started in it any more",
            ));
        }
        Ok(())
    }

    /// From now on nothing can be started here.
    pub fn close(&self) {
        let (woken, cancelled) = {
            let inner = self.inner();
            inner.closed = true;
            (inner.scope.close(), inner.cancelled.take())
        };
        // Its traceback has the child's frames.
        drop(cancelled);
        for task in woken {
            task.unpark_owned();
        }
    }

    /// One child fewer.
    pub fn child_gone(&self, daemon: bool) {
        let inner = self.inner();
        inner.pending = inner.pending.saturating_sub(1);
        inner.daemons = inner.daemons.saturating_sub(usize::from(daemon));
        if inner.pending == inner.daemons {
            self.changed.notify_all();
        }
    }
}

/// Whether a scope absorbs the cancellation that leaves it: it was cancelled itself, and nothing
/// further out was that it lets through.
fn absorbs(scope: &ScopeRef) -> bool {
    scope.cancel_called() && !scope.parent_is_cancelled()
}

/// An error if a synchronous function has returned a coroutine, which nobody would ever await.
fn refuse_coroutine(value: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: a valid object; the check reads its type.
    if unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) } == 0 {
        return Ok(());
    }
    value.call_method0("close")?;
    Err(PyTypeError::new_err(format!(
        "a function that was taken for a synchronous one returned the coroutine object {}: pass \
         the async function itself",
        value.repr()?
    )))
}
