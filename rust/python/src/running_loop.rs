//! asyncio's running loop belongs to a thread, so to a task here.
//!
//! asyncio keeps it in one slot of the OS thread, in C. A task that runs a loop of its own
//! (`asyncio.run` in a green thread) has the slot only while the task itself runs: it clears it when
//! it leaves its stack, and fills it again when it comes back. So everybody else finds the slot empty,
//! and those who run no loop pay for one look at a field of their own.

use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::run_loop;
use crate::stack::Object;
use crate::task::{release, state};

/// `asyncio._set_running_loop`, as it was.
static ORIGINAL: OnceLock<Py<PyAny>> = OnceLock::new();

/// Says what `set_running_loop` stands for. The first one counts.
#[pyfunction]
pub fn keep_running_loops(original: Py<PyAny>) {
    let _ = ORIGINAL.set(original);
}

/// Set the running event loop.
///
/// It is the running task's from now on, if there is one, and nobody else's.
#[pyfunction(name = "_set_running_loop")]
#[pyo3(signature = (r#loop, /))]
pub fn set_running_loop(py: Python<'_>, r#loop: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(original) = ORIGINAL.get() {
        original.call1(py, (r#loop,))?;
    }
    if let Some(task) = run_loop::current() {
        let mine = if r#loop.is_none() {
            null_mut()
        } else {
            r#loop.clone().into_ptr()
        };
        let former = std::mem::replace(&mut state(&task).running_loop, mine);
        release(former);
    }
    Ok(())
}

/// The task that runs `own`, its loop, leaves its stack.
#[cold]
#[inline(never)]
pub fn hide() {
    // SAFETY: `None` lives for ever.
    unsafe { set(ffi::Py_None()) };
}

/// It is back.
///
/// # Safety
/// `own` is the loop that the running task has noted.
#[cold]
#[inline(never)]
pub unsafe fn show(own: Object) {
    // SAFETY: the task owns it, and only it could give it up.
    unsafe { set(own) };
}

/// # Safety
/// `value` is a valid object.
unsafe fn set(value: Object) {
    let Some(original) = ORIGINAL.get() else {
        return;
    };
    // SAFETY: attached, as everybody is who leaves a stack.
    let py = unsafe { Python::assume_attached() };
    // An exception that is on its way stays on its way.
    let on_its_way = PyErr::take(py);
    // SAFETY: the caller vouches for the value.
    unsafe {
        let result = ffi::PyObject_CallOneArg(original.as_ptr(), value);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(original.as_ptr());
        } else {
            ffi::Py_DECREF(result);
        }
    }
    if let Some(error) = on_its_way {
        error.restore(py);
    }
}
