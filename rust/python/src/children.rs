//! The tasks of a task group or of a runner: how many are left, and what went wrong with them.

mod shared;
mod starting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::cancel_scope::{self, CancelScope};
use crate::run_loop;
use crate::task::{Report, state};
use crate::thread::Task;
use crate::wait::{Source, Wait};
use starting::scope_of;

pub use shared::Shared;

/// Shared by the Python object and by every child.
pub type ChildrenRef = Arc<Shared>;

/// The children of a task group or of a runner. Not thread-safe: for the thread of its scheduler.
#[pyclass(module = "aevent._core", frozen)]
pub struct Children {
    pub shared: ChildrenRef,
}

// SAFETY: the only unsynchronised part is `shared`, for which the same holds.
unsafe impl Sync for Children {}

/// A child that a host runs. Its coroutine holds this, so the child has ended also if the coroutine
/// has never begun.
#[pyclass(module = "aevent._core", frozen)]
pub struct Member {
    shared: ChildrenRef,
    ended: AtomicBool,
}

#[pymethods]
impl Member {
    /// The child has ended; again, nothing.
    fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.shared.child_gone(false);
        }
    }
}

// SAFETY: as for `Children`.
unsafe impl Sync for Member {}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until the last child (or the last that is no daemon) has ended.
struct Empty {
    shared: ChildrenRef,
    daemons_too: bool,
}

impl Source for Empty {
    fn is_ready(&self) -> bool {
        let inner = self.shared.inner();
        inner.pending == if self.daemons_too { 0 } else { inner.daemons }
    }

    fn queue(&self) -> Arc<WaitQueue> {
        self.shared.changed()
    }
}

/// Waits until a child has failed, or the last has ended and no more will come.
struct Settled {
    shared: ChildrenRef,
}

impl Source for Settled {
    fn is_ready(&self) -> bool {
        let inner = self.shared.inner();
        inner.has_failed() || (inner.settling && inner.pending == 0)
    }

    fn queue(&self) -> Arc<WaitQueue> {
        self.shared.changed()
    }
}

#[pymethods]
impl Children {
    #[new]
    #[pyo3(signature = (parent=None, *, keeps_errors=true))]
    fn new(parent: Option<&CancelScope>, keeps_errors: bool) -> PyResult<Self> {
        let scope = match parent.map(CancelScope::node) {
            Some(Some(scope)) => scope,
            Some(None) => {
                return Err(PyRuntimeError::new_err("the parent scope is not entered"));
            }
            None => match run_loop::current().and_then(|task| state(&task).scope.clone()) {
                Some(parent) => Scope::child(&parent, NEVER, false, None),
                None => Scope::root(),
            },
        };
        Ok(Self {
            shared: Shared::new(scope, keeps_errors),
        })
    }

    /// Starts `fn(*args)` as a green thread and returns the child's cancel scope.
    #[pyo3(signature = (function, *args, name=None))]
    fn spawn(
        &self,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<CancelScope> {
        scope_of(Self::start_call(
            &self.shared,
            function,
            args.clone(),
            name,
        )?)
    }

    /// Starts a coroutine as a native task and returns the child's cancel scope.
    #[pyo3(signature = (coroutine, name=None, *, daemon=false, context=None))]
    fn spawn_coroutine(
        &self,
        coroutine: Bound<'_, PyAny>,
        name: Option<Py<PyAny>>,
        daemon: bool,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<CancelScope> {
        scope_of(Self::start_coroutine_in(
            &self.shared,
            coroutine,
            name,
            context,
            daemon,
        )?)
    }

    /// Raises unless children may be started.
    fn check_open(&self) -> PyResult<()> {
        self.shared.check_open()
    }

    /// Counts a child that is no task of ours, until what this returns is dropped.
    fn member(&self) -> Member {
        self.shared.child_started(false);
        Member {
            shared: self.shared.clone(),
            ended: AtomicBool::new(false),
        }
    }

    /// No more children will be started.
    fn settle(&self) {
        self.shared.inner().settling = true;
        self.shared.changed().notify_all();
    }

    /// See `_core.pyi`.
    fn set_beyond(&self, deadline: &Bound<'_, PyAny>) {
        cancel_scope::set_beyond(&self.shared.scope(), deadline);
    }

    /// Whether nothing can be started here any more.
    #[getter]
    fn is_closed(&self) -> bool {
        self.shared.inner().closed
    }

    /// Whether a child has failed.
    #[getter]
    fn failed(&self) -> bool {
        self.shared.inner().has_failed()
    }

    /// Whether a child has passed on a cancellation that was not for its own scope.
    #[getter]
    fn cancelled(&self) -> bool {
        self.shared.inner().cancelled.is_some()
    }

    /// A wait until a child has failed, or the last has ended after `settle`.
    fn wait_settled(&self) -> Wait {
        Wait::for_source(Box::new(Settled {
            shared: self.shared.clone(),
        }))
    }

    /// Keeps `error` and cancels the children.
    fn fail(&self, error: Bound<'_, PyAny>) {
        self.shared.fail(PyErr::from_value(error));
    }

    /// Cancels every child.
    fn cancel(&self) {
        self.shared.cancel();
    }

    /// Whether the children were cancelled, by `cancel`, by a failure or from above.
    #[getter]
    fn is_cancelled(&self) -> bool {
        self.shared.inner().scope.is_cancelled()
    }

    /// Whether the task is one of them that has not ended.
    fn __contains__(&self, task: &Task) -> bool {
        match &state(&task.task).report {
            Report::Children(children) => Arc::ptr_eq(children, &self.shared),
            _ => false,
        }
    }

    /// Waits for this daemon, too, as for a child that is none.
    fn wait_for_daemon(&self, task: &Task) {
        let state = state(&task.task);
        if self.__contains__(task) && std::mem::replace(&mut state.daemon, false) {
            self.shared.inner().daemons -= 1;
        }
    }

    /// How many children have not ended.
    #[getter]
    fn pending(&self) -> usize {
        self.shared.inner().pending
    }

    /// How many of them nobody waits for.
    #[getter]
    fn daemons(&self) -> usize {
        self.shared.inner().daemons
    }

    /// From now on nothing can be started here.
    fn close(&self) {
        self.shared.close();
    }

    /// Leaves those that have not ended where they are, for good.
    fn abandon(&self) {
        // The scope above them refers to each. With it they are leaked: a task that is dropped while
        // it is parked runs its `finally` blocks.
        std::mem::forget(self.shared.inner().scope.clone());
    }

    /// A wait for the end of the last child, or of the last that is not a daemon.
    #[pyo3(signature = (*, daemons_too=true))]
    fn wait_empty(&self, daemons_too: bool) -> Wait {
        Wait::for_source(Box::new(Empty {
            shared: self.shared.clone(),
            daemons_too,
        }))
    }

    /// The exceptions of children, which are forgotten here.
    fn take_errors(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.shared
            .take_errors()
            .into_iter()
            .map(|error| error.into_value(py).into_any())
            .collect()
    }

    fn __repr__(&self) -> String {
        let inner = self.shared.inner();
        format!(
            "<aevent._core.Children, {} pending, {} daemons>",
            inner.pending, inner.daemons
        )
    }
}

impl Children {
    /// The Python object for a runner's children.
    pub fn of(shared: ChildrenRef) -> Self {
        Self { shared }
    }
}

/// The children of the runner that the running task belongs to.
pub fn home(py: Python<'_>) -> Option<ChildrenRef> {
    if let Some(task) = run_loop::current()
        && let Some(home) = state(&task).home.clone()
    {
        return Some(home);
    }
    // A host's task without a portal: the runner is in its context.
    crate::context::runner(py)
}

/// There is nobody whom a green thread could belong to.
#[cold]
pub fn no_runner(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "{what} needs a runner: the green thread would have nobody to own it. Put 'async with \
         aevent.runner():' around this code, or start the program with aevent.run()."
    ))
}
