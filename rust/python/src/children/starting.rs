//! A child begins: a green thread or a native coroutine, in the scope of those that it joins.

use std::ptr::null_mut;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{Children, ChildrenRef, home, no_runner};
use crate::cancel_scope::CancelScope;
use crate::context;
use crate::finish::{self, Start};
use crate::run_loop;
use crate::task::{Entry, Kind, Report, TaskRef, state};
use crate::thread_count;

impl Children {
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
    pub(super) fn start_coroutine_in(
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
            None if kind == Kind::Green => context::copied_for_thread(py)?,
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

/// The scope of a child that has been started.
pub(super) fn scope_of(task: TaskRef) -> PyResult<CancelScope> {
    let scope = state(&task).scope.clone().expect("a new task has a scope");
    Ok(CancelScope::of_task(scope, task.scheduler().clone()))
}
