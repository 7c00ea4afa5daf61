//! Calling Python in an OS thread that may end in the middle of it.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::stack::Object;

/// Calls Python from a thread that the interpreter may end under us: before 3.14 it does so to
/// whoever asks for its lock while it finalises, by `pthread_exit`, whose unwinding must not reach
/// frames of Rust. The thread hangs instead, as it does from 3.14 on.
///
/// # Safety
/// `function` is a valid object, `args` a tuple, `kwargs` a dictionary or null; attached.
pub unsafe fn call(function: Object, args: Object, kwargs: Object) -> Object {
    type Call = unsafe extern "C-unwind" fn(Object, Object, Object) -> Object;
    type Plain = unsafe extern "C" fn(Object, Object, Object) -> Object;
    let plain: Plain = ffi::PyObject_Call;
    // Not by its name: the compiler takes from pyo3's declaration that it does not unwind, even
    // where another declaration says that it does, and leaves out what is to be dropped.
    // SAFETY: the ABI is the same but for that.
    let unwinding = std::hint::black_box(unsafe { std::mem::transmute::<Plain, Call>(plain) });
    struct Hang;
    impl Drop for Hang {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let hang = Hang;
    // SAFETY: the caller's promise.
    let result = unsafe { unwinding(function, args, kwargs) };
    std::mem::forget(hang);
    result
}

/// `object.name(*args)`, by [`call`].
pub fn call_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &str,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let method = object.getattr(name)?;
    // SAFETY: both are valid, and whoever has a `Bound` is attached; the result is a new reference.
    unsafe {
        let result = call(method.as_ptr(), args.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(object.py(), result)
    }
}
