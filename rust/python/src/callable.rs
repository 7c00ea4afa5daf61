//! What kind of function something is, for the common kinds, without asking `inspect`.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::awaitable;
use crate::shortcut;

/// Whether calling `function` makes a coroutine; `None` if only `inspect` can tell.
///
/// Answers for plain functions, their bound methods and builtin functions. A plain function with
/// attributes may carry `inspect.markcoroutinefunction`'s mark, and is left to `inspect`.
#[pyfunction]
pub fn makes_coroutine(function: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
    let mut pointer = function.as_ptr();
    // SAFETY: the checks and accessors get the objects that they are for; the results are borrowed
    // from `function`, which the caller holds.
    let code = unsafe {
        if ffi::Py_TYPE(pointer) == &raw mut PyMethod_Type {
            pointer = PyMethod_Function(pointer);
        }
        if ffi::PyCFunction_CheckExact(pointer) != 0 {
            return awaitable::is_async_method(function).map(Some);
        }
        if ffi::PyFunction_Check(pointer) == 0 {
            return Ok(shortcut::is_shortcut(pointer).then_some(true));
        }
        Bound::from_borrowed_ptr(function.py(), ffi::PyFunction_GetCode(pointer))
    };
    let flags: i32 = code
        .getattr(pyo3::intern!(function.py(), "co_flags"))?
        .extract()?;
    if flags & ffi::CO_ASYNC_GENERATOR != 0 {
        return Err(PyTypeError::new_err(format!(
            "expected an async function or a synchronous one, not the async generator function {}",
            function.repr()?
        )));
    }
    if flags & ffi::CO_COROUTINE != 0 {
        return Ok(Some(true));
    }
    // SAFETY: as above.
    let function = unsafe { Bound::from_borrowed_ptr(function.py(), pointer) };
    // SAFETY: a plain function has a dictionary slot, which may be empty; borrowed.
    let marked = unsafe {
        let slot = _PyObject_GetDictPtr(function.as_ptr());
        !slot.is_null() && !(*slot).is_null() && ffi::PyDict_Size(*slot) != 0
    };
    Ok(if marked { None } else { Some(false) })
}

unsafe extern "C" {
    /// Public in CPython's API, but not declared by pyo3, like the next.
    static mut PyMethod_Type: ffi::PyTypeObject;
    fn PyMethod_Function(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
    /// Not declared by pyo3. Exported by every CPython that we support.
    fn _PyObject_GetDictPtr(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject;
}
