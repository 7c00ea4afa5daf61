//! Driving the loop of a thread: what `aevent.run()`, the adapters and `os.fork()` call.

use std::ptr::null_mut;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cancel_scope::{self, CancelScope};
use crate::children::Children;
use crate::context;
use crate::errors;
use crate::finish::{self, Start};
use crate::run_loop::{self, Driver};
use crate::task::{Entry, Kind, Report, state};
use crate::thread::Task;

/// Runs `function(*args)` or a coroutine as the main task of the native loop, and returns its task
/// when it has ended. `children` is the runner's.
#[pyfunction]
#[pyo3(signature = (function, args, coroutine, children, name=None))]
pub fn run_native(
    py: Python<'_>,
    function: Option<Bound<'_, PyAny>>,
    args: Bound<'_, PyTuple>,
    coroutine: Option<Bound<'_, PyAny>>,
    children: &Children,
    name: Option<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let event_loop = run_loop::obtain(py)?;
    if event_loop.driver() != Driver::None {
        return Err(PyRuntimeError::new_err(
            "aevent.run() was called in an OS thread whose loop is running already. Call the \
             function directly, spawn it, or run it in a thread of its own.",
        ));
    }
    let (kind, entry) = match (function, coroutine) {
        (Some(function), _) => (
            Kind::Green,
            Entry::Call {
                function: function.into_ptr(),
                args: args.into_ptr(),
                kwargs: null_mut(),
            },
        ),
        (None, Some(coroutine)) => (Kind::Coroutine, Entry::Coroutine(coroutine.into_ptr())),
        (None, None) => return Err(PyTypeError::new_err("nothing to run")),
    };
    let context = finish::copied_context(py)?;
    let task = finish::spawn(
        event_loop,
        Start {
            entry,
            kind,
            context,
            report: Report::Outcome,
            parent: Some(&children.shared.scope()),
            home: Some(children.shared.clone()),
        },
    );
    // The main task is the main thread to whoever asks.
    state(&task).is_thread = false;
    state(&task).name = name;
    let former = event_loop.set_main(Some(task.clone()));
    let result = event_loop.run(py, &task);
    drop(event_loop.set_main(former));
    event_loop.drop_idle_stacks(py);
    result?;
    let outcome = state(&task).outcome.take();
    outcome.unwrap_or_else(|| Ok(py.None()))
}

/// Starts `function(*args)` as the main green thread of a runner that a host drives.
#[pyfunction]
#[pyo3(signature = (function, args, children, name=None))]
pub fn start_main(
    py: Python<'_>,
    function: Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    children: &Children,
    name: Option<Py<PyAny>>,
) -> PyResult<(Task, CancelScope)> {
    let event_loop = run_loop::obtain(py)?;
    let context = context::copied_for_thread(py)?;
    let task = finish::spawn(
        event_loop,
        Start {
            entry: Entry::Call {
                function: function.into_ptr(),
                args: args.into_ptr(),
                kwargs: null_mut(),
            },
            kind: Kind::Green,
            context,
            report: Report::Outcome,
            parent: Some(&children.shared.scope()),
            home: Some(children.shared.clone()),
        },
    );
    state(&task).is_thread = false;
    state(&task).name = name;
    drop(event_loop.set_main(Some(task.clone())));
    let scope = state(&task).scope.clone().expect("a new task has a scope");
    Ok((
        Task { task },
        CancelScope::of_task(scope, event_loop.scheduler.clone()),
    ))
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (task))]
pub fn set_main(py: Python<'_>, task: Option<&Task>) -> PyResult<Option<Task>> {
    let former = run_loop::obtain(py)?.set_main(task.map(|task| task.task.clone()));
    Ok(former.map(|task| Task { task }))
}

/// The thread's loop is driven by `host`, an adapter; `None` ends that.
#[pyfunction]
#[pyo3(signature = (host))]
pub fn set_host(py: Python<'_>, host: Option<Py<PyAny>>) -> PyResult<()> {
    let event_loop = run_loop::obtain(py)?;
    let given_up = host.is_none();
    event_loop.set_host(host)?;
    if given_up {
        // A thread that ends leaves its greenlets, which only it could end, for good.
        event_loop.drop_idle_stacks(py);
    }
    Ok(())
}

/// The adapter that drives the thread's loop.
#[pyfunction]
pub fn get_host(py: Python<'_>) -> Option<Py<PyAny>> {
    run_loop::existing()?.host(py)
}

/// The descriptor that a host waits for, readable while there is something to do.
#[pyfunction]
pub fn loop_fd(py: Python<'_>) -> PyResult<i32> {
    Ok(run_loop::obtain(py)?.scheduler.fd())
}

/// One turn for the host: see `Backend`.
#[pyfunction]
pub fn tick(py: Python<'_>) -> PyResult<bool> {
    run_loop::obtain(py)?.tick(py)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn ask_for_tick(py: Python<'_>) -> PyResult<()> {
    run_loop::obtain(py)?.scheduler.notify();
    Ok(())
}

/// Who drives the thread's loop: "native", "host" or `None`.
#[pyfunction]
pub fn driver() -> Option<&'static str> {
    match run_loop::existing()?.driver() {
        Driver::Native => Some("native"),
        Driver::Host => Some("host"),
        Driver::None => None,
    }
}

/// Figures about the thread's loop, for people and tests.
#[pyfunction]
pub fn statistics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let statistics = PyDict::new(py);
    if let Some(event_loop) = run_loop::existing() {
        statistics.set_item("ready", event_loop.scheduler.ready_len())?;
        statistics.set_item("timers", event_loop.scheduler.timers_len())?;
        statistics.set_item("stacks", event_loop.stacks())?;
        let deadline = event_loop.scheduler.next_deadline();
        statistics.set_item("working", event_loop.scheduler.is_at_work())?;
        statistics.set_item("next_deadline", cancel_scope::to_seconds(deadline))?;
    }
    Ok(statistics)
}

/// For `os.register_at_fork`.
#[pyfunction]
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    run_loop::after_fork_in_child(py)
}

/// Has the loop wake when something is written to the pipe that `descriptor` reads; -1 ends that.
#[pyfunction]
pub fn watch_signals(py: Python<'_>, descriptor: i32) -> PyResult<()> {
    run_loop::obtain(py)?
        .scheduler
        .watch_signals(descriptor)
        .map_err(|error| errors::from_io(py, &error))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn print_exception(error: Bound<'_, PyAny>) {
    let py = error.py();
    PyErr::from_value(error).print_and_set_sys_last_vars(py);
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (error, source=None))]
pub fn print_ignored(error: Bound<'_, PyAny>, source: Option<&Bound<'_, PyAny>>) {
    let py = error.py();
    PyErr::from_value(error).write_unraisable(py, source);
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (error, function, /, *args))]
pub fn call_handling<'py>(
    error: Bound<'py, PyAny>,
    function: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let traceback = error.getattr("__traceback__")?;
    let kind = error.get_type().into_any();
    let (mut former, mut value, mut trace) = (null_mut(), null_mut(), null_mut());
    // SAFETY: the first call gives references, which the last one takes back; that between them
    // takes three of valid objects. Handlers nest like calls, in each greenlet.
    unsafe {
        ffi::PyErr_GetExcInfo(&mut former, &mut value, &mut trace);
        ffi::PyErr_SetExcInfo(kind.into_ptr(), error.into_ptr(), traceback.into_ptr());
    }
    let result = function.call1(args);
    // SAFETY: see above.
    unsafe { ffi::PyErr_SetExcInfo(former, value, trace) };
    result
}
