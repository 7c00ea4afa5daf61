//! `TaskGroup`: tasks that are left together, for async and synchronous code alike.
//!
//! In a task of ours everything happens here. In a host's task the group is the host's, and the
//! object that Python gives us for it (`HostGroup` in `_task_groups.py`) does the work.

pub mod hooks;
mod leaving;

use std::cell::UnsafeCell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::awaitable::Immediate;
use crate::callable::makes_coroutine;
use crate::cancel_scope::CancelScope;
use crate::children::{Children, ChildrenRef, Shared};
use crate::errors;
use crate::portal;
use crate::run_loop;
use crate::task::{Kind, SchedulerRef, TaskRef, release, state};
use hooks::hooks;
use leaving::{Leave, wait_for};

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

    /// An error unless the caller is in the OS thread in which it was entered.
    fn check_thread(&self) -> PyResult<()> {
        let inner = self.inner();
        if inner
            .scheduler
            .as_ref()
            .is_some_and(|scheduler| !scheduler.is_mine())
        {
            return Err(PyRuntimeError::new_err(
                "a TaskGroup belongs to the OS thread in which it was entered: another thread \
                 cannot start tasks in it. Call aevent.from_thread.run_sync(group.spawn, fn) there.",
            ));
        }
        Ok(())
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
        inner.scheduler = run_loop::existing().map(|event_loop| event_loop.scheduler.clone());
        inner.stage = Stage::Active;
        Ok(coroutine.into_bound(py))
    }

    fn start_child(
        &self,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<TaskRef> {
        let py = function.py();
        let children = self.children()?;
        self.check_thread()?;
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
        let Some(host) = portal::running_host(py, current.as_ref()) else {
            return Err(errors::not_in_task("a TaskGroup"));
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
        let leave = Leave::new(slf.clone().unbind(), children, error);
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
        wait_for(py, &children)?;
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
            self.check_thread()?;
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
            self.check_thread()?;
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
