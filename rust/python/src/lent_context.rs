//! The context of a green thread, lent to the host's task in which its awaitables run. A context can be
//! entered in one place at a time, so the thread leaves its own meanwhile.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::stack::{self, Object};
use crate::task::release;

/// The context object that the running greenlet is in, owned; null if there is none.
fn running_context() -> Object {
    let me = stack::current();
    // SAFETY: it is the running greenlet.
    let context = unsafe { stack::context(me) };
    release(me);
    context
}

/// See `_core.pyi`.
#[pyfunction]
pub fn lend_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let context = running_context();
    // SAFETY: attached; `context` is null, `None`, or a context of which we have a reference.
    unsafe {
        if context.is_null() || context == ffi::Py_None() {
            release(context);
            return Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()).map(Bound::unbind);
        }
        let lent = Bound::from_owned_ptr(py, context).unbind();
        if ffi::PyContext_Exit(context) < 0 {
            // It was given to a greenlet without being entered: others may enter it as it is.
            ffi::PyErr_Clear();
            return Ok(lent);
        }
        let copy = ffi::PyContext_Copy(context);
        if copy.is_null() || ffi::PyContext_Enter(copy) < 0 {
            let error = PyErr::fetch(py);
            release(copy);
            ffi::PyContext_Enter(context);
            return Err(error);
        }
        // The interpreter keeps the one that is entered alive.
        release(copy);
        Ok(lent)
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn take_context_back(py: Python<'_>, context: &Bound<'_, PyAny>) -> PyResult<()> {
    let copy = running_context();
    // SAFETY: attached; `copy` is null, `None`, or a context of which we have a reference.
    let outcome = unsafe {
        if copy == context.as_ptr() || copy.is_null() || copy == ffi::Py_None() {
            0
        } else {
            ffi::PyContext_Exit(copy) | ffi::PyContext_Enter(context.as_ptr())
        }
    };
    release(copy);
    if outcome < 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(())
}
