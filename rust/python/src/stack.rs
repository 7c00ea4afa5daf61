//! Greenlets, through the C API that the `greenlet` package exports. No other file knows them.
//!
//! References returned here are owned by the caller. Nothing that a caller holds across
//! [`switch`] may be a borrow of scheduler state: everything may have changed when it returns, and
//! the caller's own stack lay in the heap meanwhile.

mod saved;

use std::os::raw::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

pub use saved::{fetch, fetch_implementation, fetch_saved};

/// A greenlet, or any Python object, by its address.
pub type Object = *mut ffi::PyObject;

type New = unsafe extern "C" fn(Object, Object) -> Object;
type Current = unsafe extern "C" fn() -> Object;
type Switch = unsafe extern "C" fn(Object, Object, Object) -> Object;
type SetParent = unsafe extern "C" fn(Object, Object) -> i32;

// The slots of the table, from greenlet.h; they have not changed since greenlet 1.0.
const SLOT_NEW: usize = 3;
const SLOT_CURRENT: usize = 4;
const SLOT_SWITCH: usize = 6;
const SLOT_SET_PARENT: usize = 7;

static TABLE: AtomicPtr<*mut c_void> = AtomicPtr::new(null_mut());

/// Finds greenlet's C API. Called once, when the module is imported.
pub fn import(py: Python<'_>) -> PyResult<()> {
    py.import("greenlet")?;
    // SAFETY: the name is a C string; the interpreter is attached.
    let table = unsafe { ffi::PyCapsule_Import(c"greenlet._C_API".as_ptr(), 0) };
    if table.is_null() {
        return Err(PyErr::fetch(py));
    }
    TABLE.store(table.cast(), Ordering::Release);
    if let Err(error) = saved::find(py) {
        // Switches are slower then among many tasks, and otherwise the same.
        drop(error);
    }
    Ok(())
}

#[inline(always)]
fn slot(index: usize) -> *mut c_void {
    // SAFETY: `import` has run, or the module that calls us could not have been imported; the table
    // has twelve slots and lives as long as the process.
    unsafe { *TABLE.load(Ordering::Relaxed).add(index) }
}

/// The running greenlet. Owned by the caller.
#[inline(always)]
pub fn current() -> Object {
    // SAFETY: the slot holds a function of this type; we are attached to the interpreter, as
    // everybody who handles greenlets is.
    unsafe { std::mem::transmute::<*mut c_void, Current>(slot(SLOT_CURRENT))() }
}

/// Gives up a reference to the running greenlet, which stays alive because it runs.
#[inline(always)]
pub fn release_current() {
    let me = current();
    // SAFETY: one reference is the one just made, the other the one that the caller gives up.
    unsafe {
        ffi::Py_DECREF(me);
        ffi::Py_DECREF(me);
    }
}

/// A greenlet that will call `function` with no arguments. Null, with an exception set, on failure.
///
/// # Safety
/// Both are valid objects, `parent` a greenlet of this thread.
pub unsafe fn new(function: Object, parent: Object) -> Object {
    // SAFETY: the slot holds a function of this type; the rest is the caller's promise.
    unsafe { std::mem::transmute::<*mut c_void, New>(slot(SLOT_NEW))(function, parent) }
}

/// Has `greenlet` go on, and returns when somebody switches back to the running one: what was
/// passed on, owned, or null with an exception set.
///
/// # Safety
/// `greenlet` is a valid greenlet of this thread.
#[inline(always)]
pub unsafe fn switch(greenlet: Object) -> Object {
    // SAFETY: as for `new`.
    unsafe {
        std::mem::transmute::<*mut c_void, Switch>(slot(SLOT_SWITCH))(
            greenlet,
            null_mut(),
            null_mut(),
        )
    }
}

/// Makes `parent` the one that goes on when `greenlet` ends.
///
/// # Safety
/// Both are valid greenlets of this thread.
pub unsafe fn set_parent(greenlet: Object, parent: Object) {
    // SAFETY: as for `new`.
    unsafe {
        let set: SetParent = std::mem::transmute(slot(SLOT_SET_PARENT));
        if set(greenlet, parent) < 0 {
            ffi::PyErr_Clear();
        }
    }
}

/// The context object that the running greenlet, `greenlet`, is in: itself, not a copy; null if there is
/// none. Owned by the caller.
///
/// # Safety
/// `greenlet` is the running greenlet.
pub unsafe fn context(greenlet: Object) -> Object {
    // greenlet is the one that can tell: CPython has no call for it.
    // SAFETY: a valid object, by the caller's promise; the result is a new reference.
    unsafe {
        let context = ffi::PyObject_GetAttrString(greenlet, c"gr_context".as_ptr());
        if context.is_null() {
            ffi::PyErr_Clear();
        }
        context
    }
}

/// Makes `context`, if it is not null, the running greenlet's.
///
/// # Safety
/// `context` is null or a valid object.
pub unsafe fn set_context(context: Object) {
    if context.is_null() {
        return;
    }
    let me = current();
    // SAFETY: both are valid objects; the reference to the running greenlet is ours.
    unsafe {
        if ffi::PyObject_SetAttrString(me, c"gr_context".as_ptr(), context) < 0 {
            ffi::PyErr_Clear();
        }
        ffi::Py_DECREF(me);
    }
}
