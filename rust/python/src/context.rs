//! What tasks carry in their contexts that is ours to know: the runner, and the loop's name.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::children::{Children, ChildrenRef};
use crate::finish;
use crate::stack::Object;
use crate::task::release;

static RUNNER: OnceLock<Py<PyAny>> = OnceLock::new();

/// The context variable that holds the innermost runner's children.
#[pyfunction]
pub fn runner_variable(py: Python<'_>) -> PyResult<Py<PyAny>> {
    if let Some(variable) = RUNNER.get() {
        return Ok(variable.clone_ref(py));
    }
    // SAFETY: the name is a C string; attached.
    let variable = unsafe {
        let pointer = ffi::PyContextVar_New(c"aevent runner".as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, pointer)?
    };
    Ok(RUNNER.get_or_init(|| variable.unbind()).clone_ref(py))
}

/// The innermost runner's children, by the running context.
pub fn runner(py: Python<'_>) -> Option<ChildrenRef> {
    let variable = RUNNER.get()?;
    let mut value = std::ptr::null_mut();
    // SAFETY: `variable` is a context variable; the value is a new reference, or null.
    let value = unsafe {
        if ffi::PyContextVar_Get(variable.as_ptr(), std::ptr::null_mut(), &mut value) < 0 {
            ffi::PyErr_Clear();
            return None;
        }
        Bound::from_owned_ptr_or_opt(py, value)?
    };
    value
        .cast::<Children>()
        .ok()
        .map(|children| children.get().shared.clone())
}

/// The context variable in which sniffio, and who tells it, keep the name of the running loop.
static LOOP_NAME: OnceLock<Py<PyAny>> = OnceLock::new();

/// See `_core.pyi`.
#[pyfunction]
pub fn set_loop_name_variable(variable: Py<PyAny>) {
    // There is one, if sniffio is imported anew its own is another, and nobody asks that.
    let _ = LOOP_NAME.set(variable);
}

/// A copy of the caller's context for a green thread, in which no loop runs, whatever runs the caller.
pub fn copied_for_thread(py: Python<'_>) -> PyResult<Object> {
    let context = finish::copied_context(py)?;
    if let Some(variable) = LOOP_NAME.get()
        && let Err(error) = forget_value(py, variable, context)
    {
        release(context);
        return Err(error);
    }
    Ok(context)
}

/// Sets `variable` to `None` in `context`, a copy of the running one, if it has another value there.
fn forget_value(py: Python<'_>, variable: &Py<PyAny>, context: Object) -> PyResult<()> {
    let none = py.None();
    let mut value = std::ptr::null_mut();
    // SAFETY: a context variable, and an object; the value is a new reference.
    if unsafe { ffi::PyContextVar_Get(variable.as_ptr(), none.as_ptr(), &mut value) } < 0 {
        return Err(PyErr::fetch(py));
    }
    let is_set = value != none.as_ptr();
    release(value);
    if !is_set {
        return Ok(());
    }
    // SAFETY: `context` is a valid one that nobody has entered, and is left again; the token is a
    // new reference.
    unsafe {
        if ffi::PyContext_Enter(context) < 0 {
            return Err(PyErr::fetch(py));
        }
        let token = ffi::PyContextVar_Set(variable.as_ptr(), none.as_ptr());
        if token.is_null() {
            let error = PyErr::fetch(py);
            ffi::PyContext_Exit(context);
            return Err(error);
        }
        release(token);
        ffi::PyContext_Exit(context);
    }
    Ok(())
}
