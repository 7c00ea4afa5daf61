//! The type of a local, and the functions in its slots, which the interpreter calls.

use std::os::raw::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::dictionary::{dictionary, look_up};
use super::{Local, own_init, prepared};
use crate::stack::Object;
use crate::task::release;

// Exported by CPython for its own extension modules, not declared for others. There is no documented
// look-up that takes the instance's dictionary as an argument.
unsafe extern "C" {
    fn _PyObject_GenericGetAttrWithDict(
        object: Object,
        name: Object,
        dict: Object,
        suppress: c_int,
    ) -> Object;
    fn _PyObject_GenericSetAttrWithDict(
        object: Object,
        name: Object,
        value: Object,
        dict: Object,
    ) -> c_int;
}

/// Whether an attribute name is `__dict__`; negative with an exception set.
#[inline(always)]
unsafe fn is_dict_name(name: Object, dict_name: Object) -> c_int {
    if name == dict_name {
        return 1;
    }
    // SAFETY: both are valid objects. Names in code are interned; the others are told apart by their
    // length mostly.
    unsafe {
        if ffi::PyUnicode_Check(name) == 0 || ffi::PyUnicode_GetLength(name) != 8 {
            return 0;
        }
        ffi::PyObject_RichCompareBool(name, dict_name, ffi::Py_EQ)
    }
}

unsafe extern "C" fn get_attribute(this: Object, name: Object) -> Object {
    // SAFETY: called by the interpreter with one of ours. The dictionary is held meanwhile: a
    // descriptor may run anything, and so may dropping what another thread's end leaves.
    unsafe {
        let dict = dictionary(this);
        if dict.is_null() {
            return null_mut();
        }
        let known = prepared();
        match is_dict_name(name, known.dict_name.as_ptr()) {
            0 => {}
            1 => return dict,
            _ => {
                ffi::Py_DECREF(dict);
                return null_mut();
            }
        }
        let mut value = null_mut();
        if ffi::Py_TYPE(this).cast() == known.exact.as_ptr() {
            // As CPython does: no class but a subclass can have anything that comes first.
            value = ffi::PyDict_GetItemWithError(dict, name);
            if value.is_null() && !ffi::PyErr_Occurred().is_null() {
                ffi::Py_DECREF(dict);
                return null_mut();
            }
            ffi::Py_XINCREF(value);
        }
        if value.is_null() {
            value = _PyObject_GenericGetAttrWithDict(this, name, dict, 0);
        }
        ffi::Py_DECREF(dict);
        value
    }
}

/// Sets an attribute; `value` is null to delete it.
unsafe extern "C" fn set_attribute(this: Object, name: Object, value: Object) -> c_int {
    // SAFETY: as in `get_attribute`.
    unsafe {
        let dict = dictionary(this);
        if dict.is_null() {
            return -1;
        }
        let result = match is_dict_name(name, prepared().dict_name.as_ptr()) {
            0 => _PyObject_GenericSetAttrWithDict(this, name, value, dict),
            1 => {
                ffi::PyErr_Format(
                    ffi::PyExc_AttributeError,
                    c"'%.100s' object attribute '%U' is read-only".as_ptr(),
                    (*ffi::Py_TYPE(this)).tp_name,
                    name,
                );
                -1
            }
            _ => -1,
        };
        ffi::Py_DECREF(dict);
        result
    }
}

unsafe extern "C" fn new(kind: *mut ffi::PyTypeObject, args: Object, kwargs: Object) -> Object {
    // SAFETY: called by the interpreter with a type of ours, a tuple, and a dictionary or null.
    unsafe {
        let py = Python::assume_attached();
        let given = |object: Object| match object.is_null() {
            true => 0,
            false => ffi::PyObject_IsTrue(object),
        };
        if own_init(kind).is_none() && (given(args) != 0 || given(kwargs) != 0) {
            if ffi::PyErr_Occurred().is_null() {
                PyTypeError::new_err("Initialization arguments are not supported").restore(py);
            }
            return null_mut();
        }
        let Some(alloc) = (*kind).tp_alloc else {
            return null_mut();
        };
        let object = alloc(kind, 0);
        if object.is_null() {
            return null_mut();
        }
        let this = object.cast::<Local>();
        ffi::Py_XINCREF(args);
        (*this).args = args;
        ffi::Py_XINCREF(kwargs);
        (*this).kwargs = kwargs;
        let object = Bound::from_owned_ptr(py, object);
        // The creator's own: the interpreter calls `__init__` when we return.
        match look_up(&object, false) {
            Ok(_) => object.into_ptr(),
            Err(error) => {
                drop(object);
                error.restore(py);
                null_mut()
            }
        }
    }
}

/// Takes everything out and drops it, which may run anything.
///
/// # Safety
/// `this` is one of ours; attached.
unsafe fn take_apart(this: *mut Local) {
    // SAFETY: the caller's promise; the table came from a box and is reached by nobody else now.
    unsafe {
        (*this).last_task = 0;
        (*this).last_dict = null_mut();
        let table = std::mem::replace(&mut (*this).table, null_mut());
        let original = std::mem::replace(&mut (*this).original, null_mut());
        let args = std::mem::replace(&mut (*this).args, null_mut());
        let kwargs = std::mem::replace(&mut (*this).kwargs, null_mut());
        if !table.is_null() {
            drop(Box::from_raw(table));
        }
        release(original);
        release(args);
        release(kwargs);
    }
}

unsafe extern "C" fn traverse(this: Object, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: called by the collector with one of ours. Its visitors change nothing.
    unsafe {
        let local = this.cast::<Local>();
        let own = [
            (*local).args,
            (*local).kwargs,
            (*local).original,
            ffi::Py_TYPE(this).cast(),
        ];
        let table = (*local).table.as_ref();
        let dictionaries = table
            .into_iter()
            .flat_map(|table| table.values().map(|entry| entry.dict.as_ptr()));
        for object in own.into_iter().chain(dictionaries) {
            if !object.is_null() {
                let result = visit(object, arg);
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(this: Object) -> c_int {
    // SAFETY: called by the collector with one of ours.
    unsafe { take_apart(this.cast()) };
    0
}

unsafe extern "C" fn dealloc(this: Object) {
    // SAFETY: the last reference is gone; the type is a heap type, which each instance refers to.
    // The weak references go first, so that no task finds us half taken apart.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        if !(*this.cast::<Local>()).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        take_apart(this.cast());
        let kind = ffi::Py_TYPE(this);
        if let Some(free) = (*kind).tp_free {
            free(this.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

pub(super) fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot {
        slot,
        pfunc: pointer,
    };
    // Leaked: a type refers to its tables as long as the process lives.
    let members = Box::leak(Box::new([
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(Local, weakrefs) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        },
        ffi::PyMemberDef {
            name: std::ptr::null(),
            type_code: 0,
            offset: 0,
            flags: 0,
            doc: std::ptr::null(),
        },
    ]));
    let mut slots = [
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_setattro, set_attribute as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_doc, c"Thread-local data".as_ptr() as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"_thread._local".as_ptr(),
        basicsize: size_of::<Local>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC)
            as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and the slots are read during the call; what the slots point to is static.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec)) }
}
