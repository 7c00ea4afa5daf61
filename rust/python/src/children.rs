//! The tasks of a task group or of a runner: how many are left, and what went wrong with them.

use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::NEVER;
use aevent_runtime::fork;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::cancel_scope::CancelScope;
use crate::errors::Cancelled;
use crate::finish::{self, Start};
use crate::forest;
use crate::run_loop;
use crate::task::{Entry, Kind, Report, ScopeRef, TaskRef, state};
use crate::thread::Task;
use crate::thread_count;
use crate::wait::{Source, Wait};

/// Shared by the Python object and by every child.
pub type ChildrenRef = Arc<Shared>;

/// The state behind [`Children`].
pub struct Shared {
    inner: UnsafeCell<Inner>,
    /// Woken each time the number of children changes to something a waiter may want.
    changed: Arc<WaitQueue>,
}

struct Inner {
    /// Above every child's own scope.
    scope: ScopeRef,
    /// Children that have not ended, and how many of them nobody waits for.
    pending: usize,
    daemons: usize,
    errors: Vec<PyErr>,
    /// What a child was cancelled with that has not ended in the child's own scope.
    cancelled: Option<PyErr>,
    /// A runner's threads report their exceptions themselves.
    keeps_errors: bool,
    /// The process in which these children live.
    generation: u32,
    /// Nobody will be started any more; those who run are waited for.
    settling: bool,
    closed: bool,
}

impl Inner {
    /// Whether a child has failed, or was cancelled for another scope than its own.
    fn has_failed(&self) -> bool {
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
    fn inner(&self) -> &mut Inner {
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
                if !error.is_instance_of::<Cancelled>(py) {
                    self.fail(error);
                } else if !scope.is_some_and(absorbs) {
                    // It passes through the group to the scope that has caused it. Raised for no
                    // scope at all, it ends the group, which then absorbs it.
                    let first = self.inner().cancelled.is_none();
                    if first {
                        self.inner().cancelled = Some(error);
                    }
                    self.cancel();
                    self.changed.notify_all();
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

    fn new(scope: ScopeRef, keeps_errors: bool) -> ChildrenRef {
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
        let woken = {
            let inner = self.inner();
            inner.closed = true;
            inner.scope.close()
        };
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
        self.shared.changed.clone()
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
        self.shared.changed.clone()
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

/// Checks that `function` can be spawned as a synchronous function.
fn check_callable(function: &Bound<'_, PyAny>) -> PyResult<()> {
    if function.is_callable() {
        return Ok(());
    }
    let kind = function.get_type().qualname()?;
    if kind.to_str()? == "coroutine" {
        let text = function.repr()?;
        function.call_method0("close")?;
        return Err(PyTypeError::new_err(format!(
            "spawn() expects a function and its arguments, not the coroutine object {}: write \
             spawn(fn, arg), not spawn(fn(arg))",
            text
        )));
    }
    Err(PyTypeError::new_err(format!(
        "spawn() expects a function, not {} of type {kind}",
        function.repr()?
    )))
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
        self.shared.changed.notify_all();
    }

    /// The deadline of the host's scope around them, in seconds of `time.monotonic()`. They only
    /// say it when asked; the host sees to it that they are cancelled.
    fn note_deadline(&self, deadline: f64) {
        let nanos = if deadline.is_finite() {
            (deadline.max(0.0) * 1e9) as u64
        } else if deadline > 0.0 {
            NEVER
        } else {
            0
        };
        self.shared.inner().scope.set_deadline(nanos);
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

    /// Starts `function(*args)` as a green thread, in a copy of the caller's context.
    pub fn start_call(
        shared: &ChildrenRef,
        function: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<TaskRef> {
        check_callable(function)?;
        let entry = Entry::Call {
            function: function.clone().into_ptr(),
            args: args.into_ptr(),
            kwargs: null_mut(),
        };
        let name = name.or_else(|| Some(function.clone().unbind()));
        Self::start(shared, function.py(), Kind::Green, entry, None, name, false)
    }

    /// Starts a coroutine as a native task, in a copy of the caller's context.
    pub fn start_coroutine(
        shared: &ChildrenRef,
        coroutine: Bound<'_, PyAny>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<TaskRef> {
        Self::start_coroutine_in(shared, coroutine, name, None, false)
    }

    /// The same in `context`, if there is one; nobody waits for a daemon.
    fn start_coroutine_in(
        shared: &ChildrenRef,
        coroutine: Bound<'_, PyAny>,
        name: Option<Py<PyAny>>,
        context: Option<Bound<'_, PyAny>>,
        daemon: bool,
    ) -> PyResult<TaskRef> {
        let py = coroutine.py();
        let entry = Entry::Coroutine(coroutine.into_ptr());
        Self::start(shared, py, Kind::Coroutine, entry, context, name, daemon)
    }

    fn start(
        shared: &ChildrenRef,
        py: Python<'_>,
        kind: Kind,
        entry: Entry,
        context: Option<Bound<'_, PyAny>>,
        name: Option<Py<PyAny>>,
        daemon: bool,
    ) -> PyResult<TaskRef> {
        let ready = shared.check_open().and_then(|()| {
            run_loop::existing()
                .filter(|event_loop| event_loop.driver() != run_loop::Driver::None)
                .ok_or_else(|| no_runner("TaskGroup.spawn()"))
        });
        let event_loop = match ready {
            Ok(event_loop) => event_loop,
            Err(error) => {
                entry.give_up(py);
                return Err(error);
            }
        };
        let context = match context {
            Some(context) => context.into_ptr(),
            None => finish::copied_context(py)?,
        };
        let home = home(py);
        shared.child_started(daemon);
        let task = finish::spawn(
            event_loop,
            Start {
                entry,
                kind,
                context,
                report: Report::Children(shared.clone()),
                parent: Some(&shared.inner().scope),
                home,
            },
        );
        state(&task).name = name;
        state(&task).daemon = daemon;
        Ok(task)
    }

    /// Starts a call as a thread of this runner.
    pub fn start_thread(
        shared: &ChildrenRef,
        entry: Entry,
        context: *mut ffi::PyObject,
        daemon: bool,
    ) -> PyResult<TaskRef> {
        let event_loop = run_loop::existing()
            .filter(|event_loop| event_loop.driver() != run_loop::Driver::None)
            .ok_or_else(|| no_runner("starting a thread in a task"))?;
        if shared.inner().closed {
            return Err(PyRuntimeError::new_err(
                "can't start new thread: the runner that this task belongs to has ended",
            ));
        }
        shared.child_started(daemon);
        let task = finish::spawn(
            event_loop,
            Start {
                entry,
                kind: Kind::Green,
                context,
                report: Report::Children(shared.clone()),
                parent: Some(&shared.inner().scope),
                home: Some(shared.clone()),
            },
        );
        state(&task).daemon = daemon;
        thread_count::begin(&task);
        Ok(task)
    }
}

/// The scope of a child that has been started.
fn scope_of(task: TaskRef) -> PyResult<CancelScope> {
    let scope = state(&task).scope.clone().expect("a new task has a scope");
    Ok(CancelScope::of_task(scope, task.scheduler().clone()))
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
