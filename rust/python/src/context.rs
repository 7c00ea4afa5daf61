//! What a host's task carries in its context: the runner it is in.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::children::{Children, ChildrenRef};

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
