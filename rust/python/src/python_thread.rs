//! Running a `threading.Thread`: what `Thread._bootstrap` is for a thread of the operating system.
//!
//! If the class has not overridden `run`, its target is called directly. That is not only faster: a
//! Python frame less under everything the thread does is 700 bytes less to copy at each switch.

use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::Cancelled;
use crate::stack::Object;

struct Hooks {
    /// `threading.Thread.run`.
    run: Py<PyAny>,
    /// `report(thread, error)`: gives an exception to `threading.excepthook`.
    report: Py<PyAny>,
    /// The green threads that are alive, by identifier.
    alive: Py<PyDict>,
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// What `threading` needs when a green thread of its ends. Called once, by its patch.
#[pyfunction]
pub fn set_thread_hooks(run: Py<PyAny>, report: Py<PyAny>, alive: Py<PyDict>) {
    let _ = HOOKS.set(Hooks { run, report, alive });
}

/// What a thread is to call: its target, or its overridden `run`. Null with an exception set.
#[inline(never)]
pub fn prepare(thread: Object) -> (Object, Object, Object) {
    // SAFETY: attached: a task runs; the reference is the caller's.
    let (py, thread) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, thread))
    };
    let found = (|| -> PyResult<_> {
        let hooks = HOOKS.get();
        let run = thread.get_type().getattr("run")?;
        let overridden = hooks.is_none_or(|hooks| !run.is(hooks.run.bind(py)));
        if overridden {
            let run = thread.getattr("run")?;
            return Ok((run, PyTuple::empty(py).into_any(), None));
        }
        let target = thread.getattr("_target")?;
        if target.is_none() {
            // A thread without a target does nothing; `type(None)()` is that.
            return Ok((
                target.get_type().into_any(),
                PyTuple::empty(py).into_any(),
                None,
            ));
        }
        let args = thread.getattr("_args")?;
        let args = match args.cast_into::<PyTuple>() {
            Ok(args) => args,
            Err(error) => {
                let iterable = error.into_inner();
                py.get_type::<PyTuple>()
                    .call1((iterable,))?
                    .cast_into::<PyTuple>()?
            }
        };
        let kwargs = thread.getattr("_kwargs")?;
        let kwargs = match kwargs.cast_into::<PyDict>() {
            Ok(kwargs) if kwargs.is_empty() => None,
            Ok(kwargs) => Some(kwargs.into_any()),
            Err(error) => Some(py.get_type::<PyDict>().call1((error.into_inner(),))?),
        };
        // As `run` does: the thread keeps its arguments alive no longer than it needs them.
        for name in ["_target", "_args", "_kwargs"] {
            thread.delattr(name)?;
        }
        Ok((target, args.into_any(), kwargs))
    })();
    match found {
        Ok((target, args, kwargs)) => (
            target.into_ptr(),
            args.into_ptr(),
            kwargs.map_or(null_mut(), Bound::into_ptr),
        ),
        Err(error) => {
            error.restore(py);
            (null_mut(), null_mut(), null_mut())
        }
    }
}

/// It has returned `result`, or null with an exception set, which goes to the hook. Both references
/// are given up.
#[inline(never)]
pub fn end(thread: Object, result: Object) {
    // SAFETY: attached; both references are owned, `result` may be null with an exception set.
    let (py, thread, result) = unsafe {
        let py = Python::assume_attached();
        (
            py,
            Bound::from_owned_ptr(py, thread),
            Bound::from_owned_ptr_or_err(py, result),
        )
    };
    let hooks = HOOKS.get();
    if let Err(error) = result
        && !error.is_instance_of::<Cancelled>(py)
    {
        let reported = match hooks {
            Some(hooks) => hooks
                .report
                .call1(py, (&thread, error.into_value(py)))
                .map(|_| ()),
            None => Err(error),
        };
        if let Err(error) = reported {
            error.write_unraisable(py, Some(&thread));
        }
    }
}

/// The thread of this identifier has ended.
pub fn ended(py: Python<'_>, ident: usize) {
    if let Some(hooks) = HOOKS.get() {
        // Absent if the program has taken it out, or in the child of a fork.
        let _ = hooks.alive.bind(py).del_item(ident);
    }
}
