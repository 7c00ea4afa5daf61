//! The callables that stand in the standard library's modules: each decides, at the call, between
//! the original and ours.
//!
//! They are types of our own, not closures: no Python frame, no attribute look-up and no allocation
//! lies between the caller and the function that is chosen. `PatchedFunction` does not bind, like a
//! builtin function; `PatchedMethod` does, and says so to the interpreter, so that a method call
//! makes no bound method.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::run_loop;
use crate::stack::Object;

#[repr(C)]
struct Patched {
    base: ffi::PyObject,
    vectorcall: ffi::vectorcallfunc,
    original: Object,
    replacement: Object,
    direct: Direct,
    dict: Object,
    weakrefs: Object,
}

/// How the replacement is called. A builtin function is called past the interpreter, whose two C frames
/// would be copied with each parked task.
#[derive(Clone, Copy)]
enum Direct {
    /// Like any callable.
    No,
    One(ffi::PyCFunction, Object),
    Positional(ffi::PyCFunctionFast, Object),
    Keywords(ffi::PyCFunctionFastWithKeywords, Object),
}

impl Direct {
    /// # Safety
    /// `function` is a valid object, and what is returned is used no longer than it lives.
    unsafe fn of(function: Object) -> Self {
        const POSITIONAL: c_int = ffi::METH_FASTCALL;
        const KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
        // SAFETY: the type is checked before it is relied on, and the flags say of which type the
        // C function is.
        unsafe {
            if ffi::PyCFunction_CheckExact(function) == 0 {
                return Self::No;
            }
            let module = ffi::PyCFunction_GetSelf(function);
            let Some(pointer) = ffi::PyCFunction_GetFunction(function) else {
                return Self::No;
            };
            match ffi::PyCFunction_GetFlags(function) {
                ffi::METH_O => Self::One(pointer, module),
                POSITIONAL => {
                    let function: ffi::PyCFunctionFast =
                        std::mem::transmute::<ffi::PyCFunction, _>(pointer);
                    Self::Positional(function, module)
                }
                KEYWORDS => {
                    let function: ffi::PyCFunctionFastWithKeywords =
                        std::mem::transmute::<ffi::PyCFunction, _>(pointer);
                    Self::Keywords(function, module)
                }
                _ => Self::No,
            }
        }
    }
}

/// What programs look up on a function in Python, if the original has it.
const DESCRIPTION: [&CStr; 5] = [
    c"__doc__",
    c"__code__",
    c"__defaults__",
    c"__kwdefaults__",
    c"__annotations__",
];

/// The callable that applies to the caller. Borrowed.
#[inline(always)]
unsafe fn select(this: Object) -> Object {
    // SAFETY: `this` is one of ours: the interpreter passes what it found the slot on.
    unsafe {
        let this = this.cast::<Patched>();
        if run_loop::cooperates() {
            (*this).replacement
        } else {
            (*this).original
        }
    }
}

unsafe extern "C" fn vectorcall(
    this: Object,
    args: *const Object,
    nargs: usize,
    kwnames: Object,
) -> Object {
    // SAFETY: arguments are passed on as they came, to a function that takes them in this form.
    unsafe {
        if !run_loop::cooperates() {
            let original = (*this.cast::<Patched>()).original;
            return ffi::PyObject_Vectorcall(original, args, nargs, kwnames);
        }
        let count = ffi::PyVectorcall_NARGS(nargs);
        match (*this.cast::<Patched>()).direct {
            Direct::One(function, module) if count == 1 && kwnames.is_null() => {
                function(module, *args)
            }
            Direct::Positional(function, module) if kwnames.is_null() => {
                function(module, args.cast_mut(), count)
            }
            Direct::Keywords(function, module) => function(module, args, count, kwnames),
            _ => {
                let replacement = (*this.cast::<Patched>()).replacement;
                ffi::PyObject_Vectorcall(replacement, args, nargs, kwnames)
            }
        }
    }
}

unsafe extern "C" fn new(kind: *mut ffi::PyTypeObject, args: Object, kwargs: Object) -> Object {
    const FORMAT: *const c_char = c"OOOOO".as_ptr();
    let names: [*const c_char; 6] = [
        c"original".as_ptr(),
        c"replacement".as_ptr(),
        c"name".as_ptr(),
        c"qualname".as_ptr(),
        c"module".as_ptr(),
        std::ptr::null(),
    ];
    let (mut original, mut replacement) = (null_mut(), null_mut());
    let (mut name, mut qualname, mut module) = (null_mut(), null_mut(), null_mut());
    // SAFETY: the format asks for five objects, and five places are given; they are borrowed from
    // the arguments. `names` is only read.
    unsafe {
        if ffi::PyArg_ParseTupleAndKeywords(
            args,
            kwargs,
            FORMAT,
            names.as_ptr().cast_mut().cast(),
            &mut original as *mut Object,
            &mut replacement as *mut Object,
            &mut name as *mut Object,
            &mut qualname as *mut Object,
            &mut module as *mut Object,
        ) == 0
        {
            return null_mut();
        }
        let Some(alloc) = (*kind).tp_alloc else {
            return null_mut();
        };
        let object = alloc(kind, 0);
        if object.is_null() {
            return null_mut();
        }
        let this = object.cast::<Patched>();
        (*this).vectorcall = vectorcall;
        ffi::Py_INCREF(original);
        (*this).original = original;
        ffi::Py_INCREF(replacement);
        (*this).replacement = replacement;
        (*this).direct = Direct::of(replacement);
        let dict = ffi::PyDict_New();
        (*this).dict = dict;
        if dict.is_null() {
            ffi::Py_DECREF(object);
            return null_mut();
        }
        let entries = [
            (c"__name__", name),
            (c"__qualname__", qualname),
            (c"__module__", module),
            (c"__wrapped__", original),
            (c"_aevent_orig", original),
            (c"_aevent_new", replacement),
        ];
        for (key, value) in entries {
            if ffi::PyDict_SetItemString(dict, key.as_ptr(), value) < 0 {
                ffi::Py_DECREF(object);
                return null_mut();
            }
        }
        for key in DESCRIPTION {
            let value = ffi::PyObject_GetAttrString(original, key.as_ptr());
            if value.is_null() {
                ffi::PyErr_Clear();
                continue;
            }
            let result = ffi::PyDict_SetItemString(dict, key.as_ptr(), value);
            ffi::Py_DECREF(value);
            if result < 0 {
                ffi::Py_DECREF(object);
                return null_mut();
            }
        }
        object
    }
}

unsafe extern "C" fn traverse(this: Object, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: called by the collector with one of ours.
    unsafe {
        let patched = this.cast::<Patched>();
        for object in [
            (*patched).original,
            (*patched).replacement,
            (*patched).dict,
            ffi::Py_TYPE(this).cast(),
        ] {
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
    // SAFETY: as above. The callables stay: somebody may still call it. The dictionary goes.
    unsafe {
        let this = this.cast::<Patched>();
        let dict = std::mem::replace(&mut (*this).dict, null_mut());
        ffi::Py_XDECREF(dict);
    }
    0
}

unsafe extern "C" fn dealloc(this: Object) {
    // SAFETY: the last reference is gone; the type is a heap type, which each instance refers to.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        let patched = this.cast::<Patched>();
        if !(*patched).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        ffi::Py_XDECREF((*patched).original);
        ffi::Py_XDECREF((*patched).replacement);
        ffi::Py_XDECREF((*patched).dict);
        let kind = ffi::Py_TYPE(this);
        if let Some(free) = (*kind).tp_free {
            free(this.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

unsafe extern "C" {
    /// Public in CPython's API, but not declared by pyo3.
    fn PyMethod_New(function: Object, instance: Object) -> Object;
}

unsafe extern "C" fn bind(this: Object, instance: Object, _kind: Object) -> Object {
    // SAFETY: called by the interpreter with one of ours and an instance, or none.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            ffi::Py_INCREF(this);
            return this;
        }
        PyMethod_New(this, instance)
    }
}

unsafe extern "C" fn describe(this: Object) -> Object {
    // SAFETY: as above; the format takes one object.
    unsafe {
        ffi::PyUnicode_FromFormat(c"<patched %R>".as_ptr(), (*this.cast::<Patched>()).original)
    }
}

unsafe extern "C" fn method_select(this: Object, _args: Object) -> Object {
    // SAFETY: as above.
    unsafe {
        let chosen = select(this);
        ffi::Py_INCREF(chosen);
        chosen
    }
}

unsafe extern "C" fn method_reduce(this: Object, _args: Object) -> Object {
    // Pickled by name, like any function.
    // SAFETY: as above.
    unsafe { ffi::PyObject_GetAttrString(this, c"__qualname__".as_ptr()) }
}

struct Tables {
    methods: [ffi::PyMethodDef; 3],
    members: [ffi::PyMemberDef; 4],
    getset: [ffi::PyGetSetDef; 2],
}

fn tables() -> &'static mut Tables {
    let offset = |field: usize| field as ffi::Py_ssize_t;
    let member = |name: &'static CStr, field: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset(field),
        flags: ffi::Py_READONLY,
        doc: std::ptr::null(),
    };
    let method =
        |name: &'static CStr, function: ffi::PyCFunction, doc: &'static CStr| ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunction: function,
            },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: doc.as_ptr(),
        };
    // Leaked: a type refers to its tables as long as the process lives.
    Box::leak(Box::new(Tables {
        methods: [
            method(
                c"_aevent_select",
                method_select,
                c"The callable that applies to the caller: the original, or aevent's.",
            ),
            method(c"__reduce__", method_reduce, c"Pickled by name."),
            ffi::PyMethodDef::zeroed(),
        ],
        members: [
            member(
                c"__vectorcalloffset__",
                std::mem::offset_of!(Patched, vectorcall),
            ),
            member(c"__dictoffset__", std::mem::offset_of!(Patched, dict)),
            member(
                c"__weaklistoffset__",
                std::mem::offset_of!(Patched, weakrefs),
            ),
            ffi::PyMemberDef {
                name: std::ptr::null(),
                type_code: 0,
                offset: 0,
                flags: 0,
                doc: std::ptr::null(),
            },
        ],
        getset: [
            ffi::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(ffi::PyObject_GenericGetDict),
                set: Some(ffi::PyObject_GenericSetDict),
                doc: std::ptr::null(),
                closure: null_mut(),
            },
            ffi::PyGetSetDef {
                name: std::ptr::null(),
                get: None,
                set: None,
                doc: std::ptr::null(),
                closure: null_mut(),
            },
        ],
    }))
}

fn make_type<'py>(
    py: Python<'py>,
    name: &'static CStr,
    documentation: &'static CStr,
    binds: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let tables = tables();
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot {
        slot,
        pfunc: pointer,
    };
    let mut slots = vec![
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_repr, describe as *mut c_void),
        slot(ffi::Py_tp_methods, tables.methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, tables.members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, tables.getset.as_mut_ptr().cast()),
        slot(ffi::Py_tp_doc, documentation.as_ptr() as *mut c_void),
    ];
    let mut flags =
        ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_HAVE_VECTORCALL;
    if binds {
        slots.push(slot(ffi::Py_tp_descr_get, bind as *mut c_void));
        flags |= ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
    }
    slots.push(slot(0, null_mut()));
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size_of::<Patched>() as c_int,
        itemsize: 0,
        flags: flags as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and the slots are read during the call; what the slots point to is static.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec)) }
}

/// Adds both types to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add(
        "PatchedFunction",
        make_type(
            py,
            c"aevent._core.PatchedFunction",
            c"A function that calls the original outside tasks and aevent's replacement in one.",
            false,
        )?,
    )?;
    module.add(
        "PatchedMethod",
        make_type(
            py,
            c"aevent._core.PatchedMethod",
            c"A method that calls the original outside tasks and aevent's replacement in one.",
            true,
        )?,
    )
}
