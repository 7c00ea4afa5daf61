//! Functions that Python calls without pyo3's argument parsing and panic guard in between.
//!
//! For the calls that park most: whatever lies on the C stack when a task parks is copied away and
//! back at each switch, so half a kilobyte of parsing on it costs as much as the rest of the call.
//! A panic in one of these ends the process, as it does in any C function.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::os::raw::c_int;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::{Outcome, Raised};
use crate::stack::Object;

/// A function's description, static as the interpreter needs it.
pub struct Definition(UnsafeCell<ffi::PyMethodDef>);

// SAFETY: written never, read by the interpreter.
unsafe impl Sync for Definition {}

impl Definition {
    /// A function of one argument.
    pub const fn one(name: &'static CStr, function: ffi::PyCFunction) -> Self {
        Self::new(
            name,
            ffi::PyMethodDefPointer {
                PyCFunction: function,
            },
            ffi::METH_O,
        )
    }

    /// A function without arguments.
    pub const fn none(name: &'static CStr, function: ffi::PyCFunction) -> Self {
        Self::new(
            name,
            ffi::PyMethodDefPointer {
                PyCFunction: function,
            },
            ffi::METH_NOARGS,
        )
    }

    /// A function of positional arguments.
    pub const fn positional(name: &'static CStr, function: ffi::PyCFunctionFast) -> Self {
        Self::new(
            name,
            ffi::PyMethodDefPointer {
                PyCFunctionFast: function,
            },
            ffi::METH_FASTCALL,
        )
    }

    /// A function of positional and keyword arguments.
    pub const fn keywords(name: &'static CStr, function: ffi::PyCFunctionFastWithKeywords) -> Self {
        Self::new(
            name,
            ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: function,
            },
            ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        )
    }

    const fn new(name: &'static CStr, pointer: ffi::PyMethodDefPointer, flags: c_int) -> Self {
        Self(UnsafeCell::new(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: pointer,
            ml_flags: flags,
            ml_doc: null(),
        }))
    }

    /// The function object. A new reference, or null with an exception set.
    ///
    /// # Safety
    /// The interpreter is attached.
    pub unsafe fn object(&'static self) -> Object {
        // SAFETY: the definition is static; the rest is the caller's promise.
        unsafe { ffi::PyCFunction_NewEx(self.0.get(), null_mut(), null_mut()) }
    }

    /// A function object that knows `objects`, for [`known`] to get back. As [`Definition::object`].
    ///
    /// They live for ever, and out of the collector's sight: who looks there for those that hold a
    /// function of the standard library shall not take it from this one.
    ///
    /// # Safety
    /// The interpreter is attached.
    pub unsafe fn that_knows<const N: usize>(
        &'static self,
        objects: [&Bound<'_, PyAny>; N],
    ) -> Object {
        let known = Box::leak(Box::new(objects.map(|object| object.clone().into_ptr())));
        // SAFETY: the definition is static and the array leaked; the function takes a reference to
        // the capsule, which is ours until then.
        unsafe {
            let capsule =
                ffi::PyCapsule_New(std::ptr::from_mut(known).cast(), KNOWN.as_ptr(), None);
            if capsule.is_null() {
                return null_mut();
            }
            let function = ffi::PyCFunction_NewEx(self.0.get(), capsule, null_mut());
            ffi::Py_DECREF(capsule);
            function
        }
    }

    /// Adds the function to the module.
    pub fn add(&'static self, module: &Bound<'_, PyModule>) -> PyResult<()> {
        // SAFETY: the name is a static C string; attached, since there is a `Bound`.
        let (name, function) = unsafe {
            let name = CStr::from_ptr((*self.0.get()).ml_name);
            let function = Bound::from_owned_ptr_or_err(module.py(), self.object())?;
            (name, function)
        };
        module.add(&*name.to_string_lossy(), function)
    }
}

impl Definition {
    /// Adds the function to a class of ours, as a method.
    pub fn add_to(&'static self, class: &Bound<'_, PyType>) -> PyResult<()> {
        // SAFETY: the definition is static; the class is a type, whose instances are the only ones
        // that the descriptor accepts.
        let (name, method) = unsafe {
            let name = CStr::from_ptr((*self.0.get()).ml_name);
            let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), self.0.get());
            (name, Bound::from_owned_ptr_or_err(class.py(), method)?)
        };
        class.setattr(&*name.to_string_lossy(), method)
    }
}

const KNOWN: &CStr = c"aevent known";

/// What a function of [`Definition::that_knows`] was given, from what it gets as `self`.
///
/// # Safety
/// It is one of those, with so many objects.
#[inline(always)]
pub unsafe fn known<const N: usize>(this: Object) -> &'static [Object; N] {
    // SAFETY: the capsule was made with that name, and holds a pointer to a leaked array.
    unsafe { &*ffi::PyCapsule_GetPointer(this, KNOWN.as_ptr()).cast() }
}

/// A method of pyo3's that takes the calls which a faster one of the same name passes on.
pub struct Parsed(OnceLock<Py<PyAny>>);

impl Parsed {
    /// Not known yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Remembers the method `name`, before it is replaced in the class.
    pub fn remember(&self, class: &Bound<'_, PyType>, name: &str) -> PyResult<()> {
        let method = class.getattr(name)?.unbind();
        let _ = self.0.set(method);
        Ok(())
    }

    /// Calls it with the arguments that its replacement got.
    ///
    /// # Safety
    /// They are what the interpreter passed to a method that takes them this way.
    #[inline(never)]
    pub unsafe fn call(
        &self,
        this: Object,
        args: *const Object,
        nargs: isize,
        names: Object,
    ) -> Object {
        let Some(method) = self.0.get() else {
            return null_mut();
        };
        let named = if names.is_null() {
            0
        } else {
            // SAFETY: the names are a tuple.
            unsafe { ffi::PyTuple_Size(names) }
        };
        let mut all = Vec::with_capacity(1 + (nargs + named) as usize);
        all.push(this);
        for index in 0..nargs + named {
            // SAFETY: there are so many arguments, borrowed from the caller.
            all.push(unsafe { *args.offset(index) });
        }
        // SAFETY: valid objects; as many names as named arguments follow the `nargs` and `this`.
        unsafe {
            ffi::PyObject_Vectorcall(method.as_ptr(), all.as_ptr(), (nargs + 1) as usize, names)
        }
    }
}

/// What a C function returns: the object, or null with the exception set.
#[inline(always)]
pub fn give(result: Outcome<Object>) -> Object {
    match result {
        Ok(object) => object,
        Err(Raised) => null_mut(),
    }
}

/// A new reference to `None`.
#[inline(always)]
pub fn none() -> Object {
    // SAFETY: `None` lives for ever; attached, as every caller is.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}
