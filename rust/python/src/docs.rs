//! Gives functions, classes and their methods the docstrings of `_core.pyi`, so that `help()` tells what it does.

use std::ffi::{CStr, CString};
use std::ptr::addr_of;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Class (empty for a function), member (empty for the class itself), docstring.
const DOCS: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/docs.rs"));

/// What ends the signature that a built-in function's docstring begins with.
const END_OF_SIGNATURE: &str = "\n--\n\n";

/// Attaches them to what `module` exports.
pub fn attach(module: &Bound<'_, PyModule>) -> PyResult<()> {
    for (class, member, doc) in DOCS {
        if class.is_empty() {
            if let Ok(old) = module.getattr(*member)
                && let Some(new) = function_with_doc(&old, doc)?
            {
                module.setattr(*member, new)?;
            }
            continue;
        }
        let Ok(class) = module.getattr(*class)?.cast_into::<PyType>() else {
            continue;
        };
        let members = class.getattr("__dict__")?;
        if member.is_empty() {
            // Not where it is that of what an object stands for.
            if !members
                .get_item("__doc__")
                .is_ok_and(|doc| doc.get_type().as_type_ptr() == getset_type())
            {
                class.setattr("__doc__", *doc)?;
            }
        } else if let Ok(old) = members.get_item(*member)
            && let Some(new) = with_doc(&class, &old, doc)?
        {
            class.setattr(*member, new)?;
        }
    }
    Ok(())
}

/// A function like `old`, with another docstring; `None` if it has one already or is no function.
fn function_with_doc<'py>(
    old: &Bound<'py, PyAny>,
    doc: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = old.py();
    // SAFETY: the type is the interpreter's own and lives for ever.
    if unsafe { ffi::PyCFunction_CheckExact(old.as_ptr()) } == 0
        || old.getattr("__doc__")?.to_string() != "See `_core.pyi`."
    {
        return Ok(None);
    }
    // SAFETY: the object is of that type, exactly. Its definition lives as long as the process, and so
    // does the copy. The result is a new reference or null.
    let new = unsafe {
        let function = old.as_ptr().cast::<ffi::PyCFunctionObject>();
        let mut copy = addr_of!(*(*function).m_ml).read();
        copy.ml_doc = leak(&with_signature_of(copy.ml_doc, doc))?;
        ffi::PyCFunction_NewEx(
            Box::leak(Box::new(copy)),
            (*function).m_self,
            (*function).m_module,
        )
    };
    // SAFETY: see above.
    unsafe { Bound::from_owned_ptr_or_err(py, new) }.map(Some)
}

fn getset_type() -> *mut ffi::PyTypeObject {
    &raw mut ffi::PyGetSetDescr_Type
}

/// A descriptor like `old`, with another docstring; `None` if it is not one of ours.
fn with_doc<'py>(
    class: &Bound<'py, PyType>,
    old: &Bound<'py, PyAny>,
    doc: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = class.py();
    let kind = old.get_type();
    // SAFETY: the types are the interpreter's own and live for ever; the descriptor is of the type that
    // is asked for, exactly. What it points to is leaked with the class, and so is the copy. The
    // result is a new reference or null.
    let new = unsafe {
        if kind.as_type_ptr() == &raw mut ffi::PyMethodDescr_Type {
            let method = (*old.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method;
            let mut copy = addr_of!(*method).read();
            copy.ml_doc = leak(&with_signature_of(copy.ml_doc, doc))?;
            ffi::PyDescr_NewMethod(class.as_type_ptr(), Box::leak(Box::new(copy)))
        } else if kind.as_type_ptr() == getset_type() {
            let getset = (*old.as_ptr().cast::<ffi::PyGetSetDescrObject>()).d_getset;
            let mut copy = addr_of!(*getset).read();
            copy.doc = leak(doc)?;
            ffi::PyDescr_NewGetSet(class.as_type_ptr(), Box::leak(Box::new(copy)))
        } else {
            return Ok(None);
        }
    };
    // SAFETY: see above.
    unsafe { Bound::from_owned_ptr_or_err(py, new) }.map(Some)
}

/// `doc` behind the signature that `old` begins with, if it does.
///
/// # Safety
/// `old` is null or a string that ends with a zero.
unsafe fn with_signature_of(old: *const std::ffi::c_char, doc: &str) -> String {
    if !old.is_null() {
        // SAFETY: the caller's promise.
        let old = unsafe { CStr::from_ptr(old) }.to_string_lossy();
        if let Some((signature, _)) = old.split_once(END_OF_SIGNATURE) {
            return format!("{signature}{END_OF_SIGNATURE}{doc}");
        }
    }
    doc.to_owned()
}

fn leak(text: &str) -> PyResult<*const std::ffi::c_char> {
    let text = CString::new(text)
        .map_err(|_| PyValueError::new_err("a docstring of _core.pyi contains a zero byte"))?;
    Ok(text.into_raw())
}
