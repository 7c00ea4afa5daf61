//! `TaskGroup`: tasks that are left together, for async and synchronous code alike.
//!
//! In a task of ours everything happens here. In a host's task the group is the host's, and the
//! object that Python gives us for it (`HostGroup` in `_task_groups.py`) does the work.

use std::cell::UnsafeCell;
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::Waiter;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

use crate::callable::makes_coroutine;
use crate::cancel_scope::{CancelScope, Immediate};
use crate::children::{Children, ChildrenRef, Shared};
use crate::errors::{self, Cancelled};
use crate::portal;
use crate::run_loop;
use crate::task::{Kind, SchedulerRef, TaskRef, release, state};
use crate::wait;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    /// The body runs.
    Active,
    /// The body has ended.
    Left,
}

struct Inner {
    stage: Stage,
    scope: Option<Py<CancelScope>>,
    /// In a task of ours.
    children: Option<ChildrenRef>,
    /// Whose thread may use it.
    scheduler: Option<SchedulerRef>,
    /// In a host's task: what does it all.
    host: Option<Py<PyAny>>,
}

/// See `_core.pyi`.
#[pyclass(module = "aevent", frozen, weakref, subclass)]
pub struct TaskGroup(UnsafeCell<Inner>);

// SAFETY: `inner` is borrowed for single reads and writes with the interpreter attached.
unsafe impl Sync for TaskGroup {}
// SAFETY: as above.
unsafe impl Send for TaskGroup {}

/// What the part in Python does.
struct Hooks {
    /// `(group, host)`: the group of a host's.
    host_group: Py<PyAny>,
    /// What kind of function it is, for those that `makes_coroutine` cannot tell.
    is_coroutine_function: Py<PyAny>,
    /// `(fn, *args)`: runs an async function in a green thread.
    call_async: Py<PyAny>,
    /// `(group, fn, args, name)`: the coroutine of `start`.
    start: Py<PyAny>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

fn hooks(py: Python<'_>) -> PyResult<&Hooks> {
    HOOKS
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("aevent._task_groups was not imported"))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn set_group_hooks(
    py: Python<'_>,
    host_group: Py<PyAny>,
    is_coroutine_function: Py<PyAny>,
    call_async: Py<PyAny>,
    start: Py<PyAny>,
) {
    let _ = HOOKS.set(
        py,
        Hooks {
            host_group,
            is_coroutine_function,
            call_async,
            start,
        },
    );
}

#[cold]
fn not_entered() -> PyErr {
    PyRuntimeError::new_err(
        "this TaskGroup is not entered: use 'async with TaskGroup() as tg:', or 'with' in \
         synchronous code",
    )
}

impl TaskGroup {
    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.0.get() }
    }

    fn host(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner().host.as_ref().map(|host| host.clone_ref(py))
    }

    fn children(&self) -> PyResult<ChildrenRef> {
        self.inner().children.clone().ok_or_else(not_entered)
    }

    fn begin(&self) -> PyResult<()> {
        if self.inner().stage != Stage::New {
            return Err(PyRuntimeError::new_err(
                "a TaskGroup can be entered once only: make a new one",
            ));
        }
        Ok(())
    }

    fn enter_ours(&self, py: Python<'_>, task: TaskRef) -> PyResult<()> {
        let given = self.inner().scope.take();
        let scope = match given {
            Some(scope) => scope.into_bound(py),
            None => Bound::new(py, CancelScope::unbound())?,
        };
        let scheduler = task.scheduler().clone();
        let node = scope.get().enter_ours(task);
        let inner = self.inner();
        inner.children = Some(Shared::below(node));
        inner.scheduler = Some(scheduler);
        inner.scope = Some(scope.unbind());
        inner.stage = Stage::Active;
        Ok(())
    }

    /// The coroutine that enters a group of the host's.
    fn enter_host<'py>(slf: &Bound<'py, Self>, host: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let group = hooks(py)?.host_group.call1(py, (slf, host))?;
        let coroutine = group.call_method0(py, "enter")?;
        let inner = slf.get().inner();
        inner.host = Some(group);
        inner.stage = Stage::Active;
        Ok(coroutine.into_bound(py))
    }

    fn leave_host<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.host(py) {
            Some(host) => {
                self.inner().stage = Stage::Left;
                Ok(Some(
                    host.call_method1(py, "leave", (error,))?.into_bound(py),
                ))
            }
            None => Ok(None),
        }
    }

    /// The body has ended, with `error` or None.
    fn end_body(&self, error: &Bound<'_, PyAny>) -> PyResult<ChildrenRef> {
        let children = self.children()?;
        self.inner().stage = Stage::Left;
        if error.is_instance_of::<Cancelled>() {
            children.cancel();
        } else if !error.is_none() {
            children.fail(PyErr::from_value(error.clone()));
        }
        Ok(children)
    }

    /// All have ended, and so ends the group. Whether the body's exception is absorbed.
    fn conclude(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<bool> {
        let children = self.children()?;
        let result = self.conclude_before_close(py, &children, body);
        children.close();
        result
    }

    fn conclude_before_close(
        &self,
        py: Python<'_>,
        children: &ChildrenRef,
        body: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let errors = children.take_errors();
        let of_child = children.take_cancelled();
        let scope = self.inner().scope.as_ref().map(|scope| scope.clone_ref(py));
        let scope = scope.ok_or_else(not_entered)?;
        let of_body = body.is_instance_of::<Cancelled>();
        let cancelled = match (of_body, of_child) {
            (true, _) => Some(body.clone()),
            (false, Some(error)) => Some(error.into_value(py).into_bound(py).into_any()),
            (false, None) => None,
        };
        let none = py.None().into_bound(py);
        let absorbed = scope
            .get()
            .exit_ours(py, cancelled.as_ref().unwrap_or(&none))?;
        if !errors.is_empty() {
            // What went wrong counts more than that it was cancelled meanwhile: a cancellation is
            // found again at the next wait.
            let errors = PyList::new(py, errors.into_iter().map(|error| error.into_value(py)))?;
            let group =
                errors::group_type(py)?.call1(("unhandled errors in a TaskGroup", errors))?;
            let group = PyErr::from_value(group);
            // As by `from None`: whatever is being handled has been told by its parts.
            group.set_cause(py, None);
            return Err(group);
        }
        match cancelled {
            Some(error) if !absorbed && !of_body => Err(PyErr::from_value(error)),
            Some(_) => Ok(absorbed),
            None => Ok(true),
        }
    }

    fn start_child(
        &self,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<TaskRef> {
        let py = function.py();
        let inner = self.inner();
        let (Some(children), Some(scheduler)) = (inner.children.clone(), &inner.scheduler) else {
            return Err(not_entered());
        };
        if !scheduler.is_mine() {
            return Err(PyRuntimeError::new_err(
                "a TaskGroup belongs to the OS thread in which it was entered: another thread \
                 cannot start tasks in it",
            ));
        }
        children.check_open()?;
        let is_async = match makes_coroutine(function)? {
            Some(known) => known,
            None => hooks(py)?
                .is_coroutine_function
                .call1(py, (function,))?
                .is_truthy(py)?,
        };
        if !is_async {
            return Children::start_call(&children, function, args.clone(), name);
        }
        if run_loop::existing().is_some_and(|event_loop| event_loop.host(py).is_some()) {
            // A group of a green thread's on a host, which is to run the coroutine: a thread of its
            // own waits for it.
            let mut call = vec![function.clone()];
            call.extend(args.iter());
            let call = PyTuple::new(py, call)?;
            let call_async = hooks(py)?.call_async.bind(py);
            let name = name.or_else(|| Some(function.clone().unbind()));
            return Children::start_call(&children, call_async, call, name);
        }
        Children::start_coroutine(&children, function.call1(args)?, name)
    }
}

#[pymethods]
impl TaskGroup {
    #[new]
    #[pyo3(signature = (*, _scope=None))]
    fn new(_scope: Option<Py<CancelScope>>) -> Self {
        Self(UnsafeCell::new(Inner {
            stage: Stage::New,
            scope: _scope,
            children: None,
            scheduler: None,
            host: None,
        }))
    }

    /// The scope around the body and all children.
    #[getter]
    fn cancel_scope(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(host) = self.host(py) {
            return host.getattr(py, "cancel_scope");
        }
        let inner = self.inner();
        let scope = inner.scope.as_ref().ok_or_else(not_entered)?;
        Ok(scope.clone_ref(py).into_any())
    }

    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.begin()?;
        let current = run_loop::current();
        if let Some(task) = &current
            && state(task).kind != Kind::Host
        {
            this.enter_ours(py, task.clone())?;
            let entered = Immediate {
                value: Some(slf.clone().into_any().unbind()),
            };
            return Ok(entered.into_pyobject(py)?.into_any());
        }
        let host = match current {
            Some(task) => portal::host_of(py, &task),
            None => run_loop::existing().and_then(|event_loop| event_loop.host(py)),
        };
        let Some(host) = host else {
            return Err(PyRuntimeError::new_err(
                "a TaskGroup was entered outside a task: start the program with aevent.run(), or \
                 put 'async with aevent.runner():' around this code.",
            ));
        };
        Self::enter_host(slf, host)
    }

    fn __enter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let this = slf.get();
        this.begin()?;
        let task = run_loop::current().ok_or_else(|| errors::no_task("'with TaskGroup()'"))?;
        if state(&task).kind != Kind::Host {
            this.enter_ours(py, task)?;
        } else {
            let host =
                portal::host_of(py, &task).ok_or_else(|| errors::no_task("'with TaskGroup()'"))?;
            let coroutine = Self::enter_host(&slf, host)?;
            portal::await_in_host(py, &coroutine)?;
        }
        Ok(slf)
    }

    fn __aexit__<'py>(
        slf: &Bound<'py, Self>,
        _kind: Bound<'py, PyAny>,
        error: Bound<'py, PyAny>,
        _traceback: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(coroutine) = slf.get().leave_host(py, &error)? {
            return Ok(coroutine);
        }
        let children = slf.get().end_body(&error)?;
        let leave = Leave {
            group: Some(slf.clone().unbind()),
            children,
            error: (!error.is_none()).then(|| error.unbind()),
            waiter: None,
            suspended: false,
        };
        Ok(leave.into_pyobject(py)?.into_any())
    }

    fn __exit__<'py>(
        slf: &Bound<'py, Self>,
        _kind: Bound<'py, PyAny>,
        error: Bound<'py, PyAny>,
        _traceback: Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if let Some(coroutine) = this.leave_host(py, &error)? {
            return portal::await_in_host(py, &coroutine)?.is_truthy(py);
        }
        let children = this.end_body(&error)?;
        let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::current()) else {
            return Err(errors::no_task("leaving a TaskGroup"));
        };
        if children.is_empty()
            && let Err(raised) = event_loop.yield_now(py)
        {
            children.fail(raised.into());
        }
        // Cancellation reaches the children without us; what is left to do is to wait. An interrupt
        // ends the group, but not before its children.
        let mut waiter = None;
        loop {
            if let Some(interrupt) = state(&task).interrupt.take() {
                children.fail(interrupt);
            }
            if children.is_empty() {
                break;
            }
            let waited = wait::park_until(py, event_loop, &task, NEVER, true, |cx| {
                if state(&task).interrupt.is_some() {
                    return Poll::Ready(());
                }
                poll_empty(&children, &mut waiter, cx)
            });
            if let Err(raised) = waited {
                children.fail(raised.into());
            }
        }
        this.conclude(py, &error)
    }

    /// Starts `fn(*args)` as a child and returns the child's scope.
    #[pyo3(signature = (function, /, *args, name=None))]
    fn spawn(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(host) = self.host(py) {
            return host.call_method1(py, "spawn", (function, args, name));
        }
        let task = self.start_child(function, args, name)?;
        let node = state(&task).scope.clone().expect("a new task has a scope");
        let scope = CancelScope::of_task(node, task.scheduler().clone());
        Ok(Py::new(py, scope)?.into_any())
    }

    /// Starts a coroutine as a child, and returns the child's scope. In a task of ours only.
    #[pyo3(signature = (coroutine, name=None, context=None))]
    fn _spawn_coroutine(
        &self,
        coroutine: Bound<'_, PyAny>,
        name: Option<Py<PyAny>>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<CancelScope> {
        let children = self.children()?;
        let task = Children::start_coroutine(&children, coroutine, name)?;
        if let Some(context) = context {
            let former = std::mem::replace(&mut state(&task).context, context.into_ptr());
            release(former);
        }
        let node = state(&task).scope.clone().expect("a new task has a scope");
        Ok(CancelScope::of_task(node, task.scheduler().clone()))
    }

    /// `spawn`, without a result.
    #[pyo3(signature = (function, /, *args, name=None))]
    fn start_soon(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        if let Some(host) = self.host(py) {
            host.call_method1(py, "spawn", (function, args, name))?;
        } else {
            self.start_child(function, args, name)?;
        }
        Ok(())
    }

    /// The coroutine that starts a child and waits until it says that it has started.
    #[pyo3(signature = (function, /, *args, name=None))]
    fn start<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        hooks(py)?.start.bind(py).call1((slf, function, args, name))
    }

    /// The children that are tasks of ours; `None` before it is entered.
    #[getter]
    fn _children(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if let Some(host) = self.host(py) {
            return Ok(Some(host.getattr(py, "children")?));
        }
        match self.inner().children.clone() {
            Some(children) => Ok(Some(Py::new(py, Children::of(children))?.into_any())),
            None => Ok(None),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the interpreter attached, and reads only.
        let inner = unsafe { &*self.0.get() };
        if let Some(scope) = &inner.scope {
            visit.call(scope)?;
        }
        if let Some(host) = &inner.host {
            visit.call(host)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let inner = self.inner();
        let former = (inner.scope.take(), inner.host.take());
        drop(former);
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = match self.inner().stage {
            Stage::New => "unbound",
            Stage::Active => "active",
            Stage::Left => {
                let pending = match self._children(py)? {
                    Some(children) => children.getattr(py, "pending")?.is_truthy(py)?,
                    None => false,
                };
                if pending { "leaving" } else { "left" }
            }
        };
        Ok(format!("<aevent.TaskGroup, {state}>"))
    }
}

/// Ready when no child is left.
fn poll_empty(
    children: &ChildrenRef,
    waiter: &mut Option<Waiter>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if children.is_empty() {
            *waiter = None;
            return Poll::Ready(());
        }
        let listening = waiter.get_or_insert_with(|| children.changed().listen());
        if children.is_empty() {
            continue;
        }
        if listening.poll(cx).is_pending() {
            return Poll::Pending;
        }
        *waiter = None;
    }
}

/// The awaitable of `__aexit__` in a task of ours. A schedule point, but no place where the task
/// is cancelled: a group passes on what its children and its body raise, and nothing of its own.
#[pyclass(module = "aevent._core")]
struct Leave {
    group: Option<Py<TaskGroup>>,
    children: ChildrenRef,
    error: Option<Py<PyAny>>,
    waiter: Option<Waiter>,
    suspended: bool,
}

#[pymethods]
impl Leave {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Some(task) = run_loop::current() else {
            return Err(errors::no_task("leaving a TaskGroup"));
        };
        let children = slf.borrow().children.clone();
        if let Some(interrupt) = state(&task).interrupt.take() {
            children.fail(interrupt);
        }
        {
            let mut this = slf.borrow_mut();
            let waker = task.waker();
            let mut cx = Context::from_waker(&waker);
            if poll_empty(&children, &mut this.waiter, &mut cx).is_pending() {
                this.suspended = true;
                return Ok(py.None());
            }
            if !std::mem::replace(&mut this.suspended, true) {
                return Ok(pyo3::types::PyBool::new(py, true)
                    .to_owned()
                    .into_any()
                    .unbind());
            }
        }
        let (group, error) = {
            let mut this = slf.borrow_mut();
            (this.group.take(), this.error.take())
        };
        let Some(group) = group else {
            return Err(PyRuntimeError::new_err("this TaskGroup was left already"));
        };
        let body = error.unwrap_or_else(|| py.None()).into_bound(py);
        let absorbed = group.get().conclude(py, &body)?;
        Err(PyStopIteration::new_err((absorbed,)))
    }
}
