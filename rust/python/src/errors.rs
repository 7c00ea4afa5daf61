//! The one table from what goes wrong here to Python's exceptions.

use std::io;

use aevent_runtime::clock;
use pyo3::exceptions::{PyBaseException, PyException, PyOSError, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::task::ScopeRef;

pyo3::create_exception!(
    aevent,
    Cancelled,
    PyBaseException,
    "Raised in a task where it blocks when a cancel scope around it was cancelled."
);

pyo3::create_exception!(
    aevent,
    WouldBlock,
    PyException,
    "Raised by the X_nowait methods when X would have to wait."
);
pyo3::create_exception!(
    aevent,
    ClosedResourceError,
    PyException,
    "Raised when something is used that this program has closed, perhaps meanwhile."
);
pyo3::create_exception!(
    aevent,
    BrokenResourceError,
    PyException,
    "Raised when something cannot be used any more for a reason outside: the other end is gone."
);
pyo3::create_exception!(
    aevent,
    BusyResourceError,
    PyException,
    "Raised when two tasks use something at once that only one can."
);
pyo3::create_exception!(
    aevent,
    EndOfStream,
    PyException,
    "Raised by receiving when everything was received and the other end is closed."
);
pyo3::create_exception!(
    aevent,
    RunFinishedError,
    PyRuntimeError,
    "Raised when a loop is called into that has ended."
);

/// "A Python exception is set": what the functions return that are on the stack while a task is
/// parked. A `PyErr` in their results would make each of their frames larger, and whatever is on the
/// stack then is copied at each switch.
#[derive(Debug)]
pub struct Raised;

/// A result whose error is set in the interpreter.
pub type Outcome<T> = Result<T, Raised>;

impl From<PyErr> for Raised {
    #[cold]
    #[inline(never)]
    fn from(error: PyErr) -> Self {
        // SAFETY: attached: whoever has a `PyErr` to raise is about to return to Python.
        error.restore(unsafe { Python::assume_attached() });
        Raised
    }
}

impl From<Raised> for PyErr {
    #[cold]
    #[inline(never)]
    fn from(_: Raised) -> Self {
        // SAFETY: as above.
        PyErr::fetch(unsafe { Python::assume_attached() })
    }
}

/// `BaseExceptionGroup`, which before 3.11 is in a package of its own.
pub fn group_type(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let group = TYPE.get_or_try_init(py, || {
        let module = match py.import("builtins")?.hasattr("BaseExceptionGroup")? {
            true => "builtins",
            false => "exceptiongroup",
        };
        Ok::<_, PyErr>(py.import(module)?.getattr("BaseExceptionGroup")?.unbind())
    })?;
    Ok(group.bind(py))
}

/// See [`split`].
pub type Parts<'py> = (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// What of an exception is a cancellation, and what is left of it without: either may be nothing. An
/// exception group may hold both, and more than one cancellation, of which the first is given.
///
/// For a group this runs Python code. One whose class cannot split it stays whole.
pub fn split<'py>(error: &Bound<'py, PyAny>) -> Parts<'py> {
    if error.is_instance_of::<Cancelled>() {
        return (Some(error.clone()), None);
    }
    split_group(error).unwrap_or_else(|_| (None, Some(error.clone())))
}

#[cold]
fn split_group<'py>(error: &Bound<'py, PyAny>) -> PyResult<Parts<'py>> {
    let py = error.py();
    let group_type = group_type(py)?;
    if !error.is_instance(group_type)? {
        return Ok((None, Some(error.clone())));
    }
    let (mut cancelled, rest): (Bound<'py, PyAny>, Bound<'py, PyAny>) = error
        .call_method1("split", (py.get_type::<Cancelled>(),))?
        .extract()?;
    while cancelled.is_instance(group_type)? {
        cancelled = cancelled.getattr("exceptions")?.get_item(0)?;
    }
    Ok((
        (!cancelled.is_none()).then_some(cancelled),
        (!rest.is_none()).then_some(rest),
    ))
}

/// The exception of a cancelled task.
#[cold]
pub fn cancelled() -> PyErr {
    Cancelled::new_err(())
}

/// The same, saying why as far as the scope knows. No Python code runs.
#[cold]
pub fn cancelled_in(scope: &ScopeRef) -> PyErr {
    match scope.reason(clock::now()) {
        Some(reason) => Cancelled::new_err((String::from(reason),)),
        None => cancelled(),
    }
}

/// `TimeoutError("timed out")`, which is `socket.timeout`.
#[cold]
pub fn timed_out() -> PyErr {
    PyTimeoutError::new_err("timed out")
}

/// The `OSError` subclass for `errno`.
#[cold]
pub fn os_error(py: Python<'_>, errno: i32) -> PyErr {
    // Called like Python calls it, so that the errno picks the subclass.
    match py.get_type::<PyOSError>().call1((errno, io_message(errno))) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

fn io_message(errno: i32) -> String {
    // SAFETY: `strerror` returns a C string that is valid until the next call; the interpreter's
    // lock, which we hold, serialises the calls of everybody who uses it this way.
    unsafe { std::ffi::CStr::from_ptr(libc::strerror(errno)) }
        .to_string_lossy()
        .into_owned()
}

/// The `OSError` subclass for an error of the runtime's.
#[cold]
pub fn from_io(py: Python<'_>, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => os_error(py, errno),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// Somebody blocks in a place where only a task may.
#[cold]
pub fn no_task(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "{what} was called outside a task. Call it from code started by aevent.run() or \
         TaskGroup.spawn(), or put 'await aevent.per_task()' first in this task."
    ))
}

/// Somebody enters what belongs to a task, where there is none and no host's either.
#[cold]
pub fn not_in_task(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "{what} was entered outside a task: start the program with aevent.run(), or put 'async with \
         aevent.runner():' around this code."
    ))
}

/// An OS thread is about to wait for something that only a task parked on that thread could do.
#[cold]
pub fn deadlock() -> PyErr {
    PyRuntimeError::new_err(
        "this blocking acquire could never succeed: the lock is held by a task of the same OS \
         thread, and the thread would wait here instead of running that task. It was called under \
         aevent.native(), in a finalizer or signal handler that ran inside the scheduler, or by a \
         host's task without a portal that the holder waits for. Use a timeout, \
         acquire(blocking=False), or take the lock outside of these.",
    )
}
