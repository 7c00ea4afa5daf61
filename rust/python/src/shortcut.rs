//! Async functions of ours that skip their own coroutine in a native task.
//!
//! `await aevent.sleep(0)` would make a coroutine whose only work is to await another object, and each
//! step would go through it. A [`Shortcut`] stands in front of such a function: called in a task of
//! the native backend, with the usual arguments, it returns that object right away; in any other case it calls
//! the function. To `inspect` it is the function: it has the same attributes.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use aevent_runtime::clock::{self, NEVER};
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::pause;
use crate::raw::Definition;
use crate::run_loop::{self, Driver};
use crate::stack::Object;
use crate::wait::Wait;

/// The callable. It lives as long as its module, and is out of the collector's sight.
#[repr(C)]
struct Shortcut {
    base: ffi::PyObject,
    /// Finds it where the interpreter looks for it.
    vectorcall: ffi::vectorcallfunc,
    weak_references: Object,
    /// The function behind it. Owned.
    function: Object,
}

static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(null_mut());

/// # Safety
/// The object is a `Shortcut`.
#[inline(always)]
unsafe fn shortcut<'a>(object: Object) -> &'a mut Shortcut {
    // SAFETY: the caller's promise.
    unsafe { &mut *object.cast() }
}

/// Whether `object` is one: then calling it makes a coroutine, or what is as good.
#[inline]
pub fn is_shortcut(object: Object) -> bool {
    // SAFETY: a valid object.
    unsafe { ffi::Py_TYPE(object) == TYPE.load(Ordering::Relaxed) }
}

/// Whether what is called in the running task will be awaited in one that we step. That is not so in a
/// host's program even if a green thread calls: what it passes to `await_` a host's task awaits.
#[inline(always)]
fn is_ours() -> bool {
    run_loop::existing().is_some_and(|event_loop| event_loop.driver() == Driver::Native)
        && run_loop::running().is_some()
}

/// Calls the function itself.
#[inline(never)]
unsafe fn call_function(this: Object, args: *const Object, nargs: usize, names: Object) -> Object {
    // SAFETY: what the interpreter has called us with.
    unsafe { ffi::PyObject_Vectorcall(shortcut(this).function, args, nargs, names) }
}

fn count(nargs: usize, names: Object) -> Option<isize> {
    // SAFETY: the number and a flag, as the interpreter passes it.
    names
        .is_null()
        .then(|| unsafe { ffi::PyVectorcall_NARGS(nargs) })
}

unsafe extern "C" fn call_checkpoint(
    this: Object,
    args: *const Object,
    nargs: usize,
    names: Object,
) -> Object {
    if count(nargs, names) == Some(0) && is_ours() {
        return pause::checkpoint();
    }
    // SAFETY: passed on.
    unsafe { call_function(this, args, nargs, names) }
}

unsafe extern "C" fn call_sleep(
    this: Object,
    args: *const Object,
    nargs: usize,
    names: Object,
) -> Object {
    if count(nargs, names) == Some(1)
        && is_ours()
        // SAFETY: there is one argument, borrowed from the caller.
        && let Some(seconds) = unsafe { length(*args) }
    {
        if seconds == 0.0 {
            return pause::checkpoint();
        }
        return pause::sleep_until(deadline_in(seconds));
    }
    // SAFETY: passed on.
    unsafe { call_function(this, args, nargs, names) }
}

unsafe extern "C" fn call_sleep_forever(
    this: Object,
    args: *const Object,
    nargs: usize,
    names: Object,
) -> Object {
    if count(nargs, names) == Some(0) && is_ours() {
        return pause::sleep_until(NEVER);
    }
    // SAFETY: passed on.
    unsafe { call_function(this, args, nargs, names) }
}

/// `wait(wait)`: in a task of ours the wait itself is what is awaited.
unsafe extern "C" fn call_wait(
    this: Object,
    args: *const Object,
    nargs: usize,
    names: Object,
) -> Object {
    if count(nargs, names) == Some(1) && is_ours() {
        // SAFETY: there is one argument, borrowed from the caller; attached: Python calls us.
        unsafe {
            let argument = *args;
            let py = Python::assume_attached();
            if Bound::from_borrowed_ptr(py, argument).is_exact_instance_of::<Wait>() {
                ffi::Py_INCREF(argument);
                return argument;
            }
        }
    }
    // SAFETY: passed on.
    unsafe { call_function(this, args, nargs, names) }
}

/// The length of a sleep, if it is an ordinary one.
///
/// # Safety
/// The argument is a valid object.
#[inline]
unsafe fn length(seconds: Object) -> Option<f64> {
    // SAFETY: the accessors get the types that they are for. An int that is too large for a float
    // raises, which is taken back: the function will raise it again.
    let value = unsafe {
        if ffi::PyFloat_CheckExact(seconds) != 0 {
            ffi::PyFloat_AS_DOUBLE(seconds)
        } else if ffi::PyLong_CheckExact(seconds) != 0 {
            let value = ffi::PyLong_AsDouble(seconds);
            if value == -1.0 {
                ffi::PyErr_Clear();
            }
            value
        } else {
            return None;
        }
    };
    (value >= 0.0).then_some(value)
}

/// See `wait::deadline_after`.
fn deadline_in(seconds: f64) -> u64 {
    let nanos = seconds * 1e9;
    if nanos >= (u64::MAX / 2) as f64 {
        return NEVER;
    }
    clock::now().saturating_add(nanos.ceil() as u64)
}

/// Attributes are the function's, but for those that say what the object itself is.
unsafe extern "C" fn get_attribute(this: Object, name: Object) -> Object {
    const OWN: [&CStr; 4] = [c"__class__", c"__call__", c"__reduce__", c"__reduce_ex__"];
    // SAFETY: our own object, and a string, which the interpreter passes.
    unsafe {
        let is = |own: &CStr| ffi::PyUnicode_CompareWithASCIIString(name, own.as_ptr()) == 0;
        if OWN.into_iter().any(is) {
            return ffi::PyObject_GenericGetAttr(this, name);
        }
        let function = shortcut(this).function;
        if is(c"__wrapped__") {
            ffi::Py_INCREF(function);
            return function;
        }
        ffi::PyObject_GetAttr(function, name)
    }
}

unsafe extern "C" fn set_attribute(this: Object, name: Object, value: Object) -> c_int {
    // SAFETY: what the interpreter passes; a null value means to delete it.
    unsafe { ffi::PyObject_SetAttr(shortcut(this).function, name, value) }
}

unsafe extern "C" fn repr(this: Object) -> Object {
    // SAFETY: our own object.
    unsafe { ffi::PyObject_Repr(shortcut(this).function) }
}

/// Pickled and copied by its name, as a function is.
unsafe extern "C" fn reduce(this: Object, _protocol: Object) -> Object {
    // SAFETY: our own object; a static name.
    unsafe { ffi::PyObject_GetAttrString(shortcut(this).function, c"__qualname__".as_ptr()) }
}

static REDUCE: Definition = Definition::one(c"__reduce_ex__", reduce);

unsafe extern "C" fn dealloc(this: Object) {
    // SAFETY: nobody else has a reference; the type is one of those that their objects hold.
    unsafe {
        let kind = ffi::Py_TYPE(this);
        if !shortcut(this).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        ffi::Py_DECREF(shortcut(this).function);
        ffi::PyObject_Free(this.cast());
        ffi::Py_DECREF(kind.cast());
    }
}

/// See `_core.pyi`. What is done instead goes by the function's name.
#[pyfunction(name = "shortcut")]
fn make(function: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = function.py();
    let name = function.getattr("__name__")?;
    let vectorcall: ffi::vectorcallfunc = match name.extract::<&str>()? {
        "checkpoint" => call_checkpoint,
        "sleep" => call_sleep,
        "sleep_forever" => call_sleep_forever,
        "wait" => call_wait,
        other => {
            return Err(PyValueError::new_err(format!(
                "there is no shortcut for {other}()"
            )));
        }
    };
    // SAFETY: attached; the memory is that of a `Shortcut`, for which the type was made, and all of it
    // is written before anybody sees it.
    unsafe {
        let memory = ffi::PyObject_Malloc(size_of::<Shortcut>()).cast::<Shortcut>();
        if memory.is_null() {
            ffi::PyErr_NoMemory();
            return Err(PyErr::fetch(py));
        }
        (&raw mut (*memory).vectorcall).write(vectorcall);
        (&raw mut (*memory).weak_references).write(null_mut());
        (&raw mut (*memory).function).write(function.clone().into_ptr());
        let object = ffi::PyObject_Init(memory.cast(), TYPE.load(Ordering::Relaxed));
        Ok(Bound::from_owned_ptr(py, object).unbind())
    }
}

/// Adds the function to the module, and makes the type, which lives as long as the process.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let offset = |name: &'static CStr, offset: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset as ffi::Py_ssize_t,
        flags: ffi::Py_READONLY,
        doc: null_mut::<c_char>(),
    };
    let members = Box::leak(Box::new([
        offset(c"__vectorcalloffset__", offset_of!(Shortcut, vectorcall)),
        offset(c"__weaklistoffset__", offset_of!(Shortcut, weak_references)),
        ffi::PyMemberDef::default(),
    ]));
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_setattro, set_attribute as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(0, null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"aevent._core.Shortcut".as_ptr(),
        basicsize: size_of::<Shortcut>() as c_int,
        itemsize: 0,
        flags: flags as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; the functions are those that the slots are for. The interpreter keeps the
    // name, which is static, and the members, which are leaked, but not the list itself.
    let kind = unsafe {
        let kind = ffi::PyType_FromSpec(&mut spec);
        Bound::from_owned_ptr_or_err(py, kind)?.cast_into::<PyType>()?
    };
    REDUCE.add_to(&kind)?;
    TYPE.store(kind.into_ptr().cast(), Ordering::Relaxed);
    module.add_function(wrap_pyfunction!(make, module)?)
}
