//! Buffers of Python objects.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A buffer view, released when dropped.
pub struct View(ffi::Py_buffer);

impl View {
    pub fn get(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Box<Self>> {
        // Boxed: some exporters remember the view's address, and the stack may be copied away.
        let mut view = Box::new(Self(ffi::Py_buffer::new()));
        // SAFETY: the view is valid; on success it is released by `drop`.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view.0, flags) } < 0 {
            let error = PyErr::fetch(object.py());
            std::mem::forget(*view);
            return Err(error);
        }
        Ok(view)
    }

    /// Refuses what cannot be written to in the words of CPython's argument parser.
    pub fn get_writable(object: &Bound<'_, PyAny>) -> PyResult<Box<Self>> {
        Self::get(object, ffi::PyBUF_WRITABLE).map_err(|_| {
            let kind = object.get_type();
            PyTypeError::new_err(format!(
                "recv_into() argument 1 must be read-write bytes-like object, not {}",
                kind.name()
                    .map_or_else(|_| "object".into(), |name| name.to_string())
            ))
        })
    }

    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    pub fn pointer(&mut self) -> *mut std::ffi::c_void {
        self.0.buf
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: it was got, and is released once; attached, like every call of ours.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}
