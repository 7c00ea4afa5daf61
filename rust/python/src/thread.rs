//! Green threads as Python sees them: starting, identity, joining.

use std::ptr::null_mut;
use std::sync::Arc;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::children::{self, Children};
use crate::errors;
use crate::finish;
use crate::forest;
use crate::run_loop;
use crate::task::{Entry, Kind, TaskRef, state};
use crate::wait::{self, Source, Wait};

/// The number that stands for the thread `task`: its address, which no OS thread can have.
pub fn ident(task: &TaskRef) -> usize {
    Arc::as_ptr(task) as usize
}

/// A handle of a task.
#[pyclass(module = "aevent._core", frozen, weakref)]
pub struct Task {
    pub(crate) task: TaskRef,
}

/// The end of a task.
struct Finished(TaskRef);

impl Source for Finished {
    fn is_ready(&self) -> bool {
        self.0.is_done()
    }

    fn queue(&self) -> Arc<WaitQueue> {
        finished_queue(&self.0)
    }
}

fn finished_queue(task: &TaskRef) -> Arc<WaitQueue> {
    state(task)
        .finished
        .get_or_insert_with(|| Arc::new(WaitQueue::new()))
        .clone()
}

#[pymethods]
impl Task {
    /// The thread identifier.
    #[getter]
    fn ident(&self) -> usize {
        ident(&self.task)
    }

    /// Whether it has not ended.
    fn is_alive(&self) -> bool {
        !self.task.is_done()
    }

    /// Waits for its end: a task parks, an OS thread blocks. False when `timeout` seconds are over.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.task.is_done() {
            return Ok(true);
        }
        let deadline = timeout.map_or(NEVER, wait::deadline_after);
        if deadline == NEVER && !run_loop::cooperates() && self.task.scheduler().is_mine() {
            return Err(errors::deadlock());
        }
        let mut waiter = finished_queue(&self.task).listen();
        wait::wait_until(py, deadline, false, |cx| {
            if self.task.is_done() {
                return Poll::Ready(());
            }
            waiter.poll(cx)
        })
    }

    /// A coroutine's wait for its end.
    fn _finished_wait(&self) -> Wait {
        Wait::for_source(Box::new(Finished(self.task.clone())))
    }

    /// What it returned; raises what it raised. Only for tasks whose outcome is kept.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match state(&self.task).outcome.take() {
            Some(result) => result,
            None if self.task.is_done() => Ok(py.None()),
            None => Err(PyRuntimeError::new_err("the task has not ended")),
        }
    }

    /// Has its next park, or the one it is in, raise `error`.
    fn interrupt(&self, error: Bound<'_, PyAny>) {
        if self.task.is_done() {
            return;
        }
        let former = state(&self.task)
            .interrupt
            .replace(PyErr::from_value(error));
        drop(former);
        self.task.unpark();
    }

    /// Cancels it.
    fn cancel(&self) {
        let scope = state(&self.task).scope.clone();
        if let Some(scope) = scope {
            for task in scope.cancel() {
                task.unpark_owned();
            }
        }
    }

    /// The name it was given, or what stands for it; `None` without one.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        state(&self.task)
            .name
            .as_ref()
            .map(|name| name.clone_ref(py))
    }

    /// Whether its next wait would raise `Cancelled`.
    #[getter]
    fn is_cancelled(&self) -> bool {
        state(&self.task)
            .scope
            .as_ref()
            .is_some_and(|scope| scope.is_cancelled())
    }

    /// See `_core.pyi`.
    #[getter]
    fn kind(&self) -> &'static str {
        kind_name(&self.task)
    }

    /// See `_core.pyi`.
    #[getter]
    fn coro(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = state(&self.task);
        match state.entry {
            Entry::Coroutine(coroutine) => {
                // SAFETY: the entry owns it.
                Some(unsafe { Bound::from_borrowed_ptr(py, coroutine) }.unbind())
            }
            _ => state
                .portal
                .as_ref()
                .map(|portal| portal.clone_ref(py).into_any()),
        }
    }

    /// See `_core.pyi`.
    #[getter]
    fn state(&self) -> &'static str {
        forest::doing(&self.task)
    }

    /// See `_core.pyi`.
    #[getter]
    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let context = state(&self.task).context;
        if context.is_null() {
            return None;
        }
        // SAFETY: the task owns it.
        Some(unsafe { Bound::from_borrowed_ptr(py, context) }.unbind())
    }

    /// See `_core.pyi`.
    #[getter]
    fn parent(&self) -> Option<Self> {
        let mut scope = state(&self.task).scope.clone();
        while let Some(inner) = scope {
            if let Some(task) = inner.task()
                && !Arc::ptr_eq(&task, &self.task)
            {
                return Some(Self { task });
            }
            scope = inner.parent();
        }
        None
    }

    /// The `threading.Thread` object, if it is one's.
    #[getter]
    fn thread(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        state(&self.task)
            .thread
            .as_ref()
            .map(|thread| thread.clone_ref(py))
    }

    #[setter]
    fn set_thread(&self, thread: Option<Py<PyAny>>) {
        let former = std::mem::replace(&mut state(&self.task).thread, thread);
        drop(former);
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Task>()
            .is_ok_and(|other| Arc::ptr_eq(&other.get().task, &self.task))
    }

    fn __hash__(&self) -> usize {
        ident(&self.task) >> 4
    }

    fn __repr__(&self) -> String {
        format!(
            "<aevent._core.Task {:#x}, {:?}, {}>",
            ident(&self.task),
            state(&self.task).kind,
            if self.task.is_done() {
                "finished"
            } else if self.task.is_parked() {
                "parked"
            } else {
                "ready"
            }
        )
    }
}

/// The tasks of the running task's program that have not ended, the outermost first.
#[pyfunction]
pub fn all_tasks() -> Vec<Task> {
    let Some(scope) = run_loop::current().and_then(|task| state(&task).scope.clone()) else {
        return Vec::new();
    };
    scope
        .tasks(|one, other| !Arc::ptr_eq(one, other))
        .into_iter()
        .filter(|(task, _)| !task.is_done())
        .map(|(task, _)| Task { task })
        .collect()
}

fn check_call(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyAny>,
    kwargs: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if !function.is_callable() {
        return Err(PyTypeError::new_err("first arg must be callable"));
    }
    if !args.is_instance_of::<PyTuple>() {
        return Err(PyTypeError::new_err("2nd arg must be a tuple"));
    }
    if kwargs.is_some_and(|kwargs| !kwargs.is_instance_of::<PyDict>()) {
        return Err(PyTypeError::new_err(
            "optional 3rd arg must be a dictionary",
        ));
    }
    Ok(())
}

/// `_thread.start_new_thread` in a task: a green thread that nobody waits for.
#[pyfunction]
#[pyo3(signature = (function, args, kwargs=None, /))]
pub fn start_new_thread(
    py: Python<'_>,
    function: Bound<'_, PyAny>,
    args: Bound<'_, PyAny>,
    kwargs: Option<Bound<'_, PyAny>>,
) -> PyResult<usize> {
    check_call(&function, &args, kwargs.as_ref())?;
    let home = children::home(py).ok_or_else(|| children::no_runner("starting a thread"))?;
    let context = finish::empty_context(py)?;
    let name = function.clone().unbind();
    let entry = Entry::Call {
        function: function.into_ptr(),
        args: args.into_ptr(),
        kwargs: kwargs.map_or(null_mut(), Bound::into_ptr),
    };
    let task = Children::start_thread(&home, entry, context, true)?;
    state(&task).name = Some(name);
    Ok(ident(&task))
}

/// Starts `thread`, a `threading.Thread`, as a green thread. With `function`, that is called
/// instead of the thread's `run`, and has to provide for its exceptions.
#[pyfunction]
#[pyo3(signature = (thread, daemon, function=None, context=None))]
pub fn start_thread(
    py: Python<'_>,
    thread: Bound<'_, PyAny>,
    daemon: bool,
    function: Option<Bound<'_, PyAny>>,
    context: Option<Bound<'_, PyAny>>,
) -> PyResult<Task> {
    let home =
        children::home(py).ok_or_else(|| children::no_runner("starting a thread in a task"))?;
    let context = match context {
        Some(context) => context.into_ptr(),
        None => finish::empty_context(py)?,
    };
    let entry = match function {
        Some(function) => Entry::Call {
            function: function.into_ptr(),
            args: PyTuple::empty(py).into_ptr(),
            kwargs: null_mut(),
        },
        None => Entry::Thread(thread.clone().into_ptr()),
    };
    let task = Children::start_thread(&home, entry, context, daemon)?;
    state(&task).thread = Some(thread.unbind());
    Ok(Task { task })
}

/// The identifier of the green thread that calls, or `None` outside one.
#[pyfunction]
pub fn thread_ident() -> Option<usize> {
    if run_loop::is_child_of_a_fork() {
        return None;
    }
    let task = run_loop::cooperating()?;
    state(task).is_thread.then(|| ident(task))
}

/// The `threading.Thread` object of the green thread that calls, or `None`.
#[pyfunction]
pub fn current_thread(py: Python<'_>) -> Option<Py<PyAny>> {
    if run_loop::is_child_of_a_fork() {
        return None;
    }
    let task = run_loop::cooperating()?;
    state(task)
        .thread
        .as_ref()
        .map(|thread| thread.clone_ref(py))
}

/// The running task, also under `native()`; `None` outside one.
#[pyfunction]
pub fn current_task() -> Option<Task> {
    run_loop::current().map(|task| Task { task })
}

/// Whether patched calls cooperate where this is called.
#[pyfunction]
pub fn in_task() -> bool {
    run_loop::cooperates()
}

/// The kind of the running task: "green", "coroutine", "host", or `None` outside one.
#[pyfunction]
pub fn task_kind() -> Option<&'static str> {
    run_loop::current().map(|task| kind_name(&task))
}

fn kind_name(task: &TaskRef) -> &'static str {
    match state(task).kind {
        Kind::Green => "green",
        Kind::Coroutine => "coroutine",
        Kind::Host => "host",
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn main_task() -> Option<Task> {
    let task = run_loop::existing()?.main()?;
    Some(Task { task })
}

/// Counts `native()` up or down for the running task. False without a task.
#[pyfunction]
pub fn adjust_native(delta: i32) -> bool {
    run_loop::existing().is_some_and(|event_loop| event_loop.adjust_native(delta))
}

/// Sets how deep the running task is in `native()`, and returns how deep it was.
#[pyfunction]
pub fn replace_native(depth: u32) -> Option<u32> {
    run_loop::existing()?.replace_native(depth)
}

/// The running task's threads belong to `children` from now on. Returns whose they were.
#[pyfunction]
#[pyo3(signature = (children))]
pub fn set_home(children: Option<&Children>) -> Option<Children> {
    let task = run_loop::current()?;
    let home = children.map(|children| children.shared.clone());
    let former = std::mem::replace(&mut state(&task).home, home);
    former.map(Children::of)
}
