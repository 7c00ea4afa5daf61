//! The methods of `io.FileIO` in a task. Everything in `io` that reads or writes a descriptor goes
//! through them: `Popen.stdout`, `sys.stdin`, what `open()` returns.
//!
//! A file that can be positioned is not waited for, and goes to the original method; that is what
//! `FileIO` remembers about itself, so it costs no system call.

use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::descriptors::{number, read_bytes, write_view};
use super::{Kind, kind_of};
use crate::errors::Outcome;
use crate::poll;
use crate::raw::{self, Definition};
use crate::socket::buffer::View;
use crate::socket::receive::{SCRATCH, bytes, scratch};
use crate::stack::Object;

static READ: Definition = Definition::positional(c"read", read);
static READINTO: Definition = Definition::positional(c"readinto", readinto);
static READALL: Definition = Definition::positional(c"readall", readall);
static WRITE: Definition = Definition::positional(c"write", write);
static CLOSE: Definition = Definition::positional(c"close", close);

/// The methods as they were.
struct Originals {
    read: Py<PyAny>,
    readinto: Py<PyAny>,
    readall: Py<PyAny>,
    write: Py<PyAny>,
    close: Py<PyAny>,
    seekable: Py<PyAny>,
    readable: Py<PyAny>,
    writable: Py<PyAny>,
    fileno: Py<PyAny>,
}

static ORIGINALS: OnceLock<Originals> = OnceLock::new();

fn originals() -> &'static Originals {
    ORIGINALS
        .get()
        .expect("they are looked up when the module is made")
}

/// Adds `file_io_methods` to the module: name to function. Called once, before anything is patched.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let kind = py.import("_io")?.getattr("FileIO")?;
    let get = |name: &str| kind.getattr(name).map(Bound::unbind);
    let _ = ORIGINALS.set(Originals {
        read: get("read")?,
        readinto: get("readinto")?,
        readall: get("readall")?,
        write: get("write")?,
        close: get("close")?,
        seekable: get("seekable")?,
        readable: get("readable")?,
        writable: get("writable")?,
        fileno: get("fileno")?,
    });
    let methods = PyDict::new(py);
    for (name, definition) in [
        ("read", &READ),
        ("readinto", &READINTO),
        ("readall", &READALL),
        ("write", &WRITE),
        ("close", &CLOSE),
    ] {
        // SAFETY: attached; the result is a new reference, or null.
        let function = unsafe { Bound::from_owned_ptr_or_err(py, definition.object()) }?;
        methods.set_item(name, function)?;
    }
    module.add("file_io_methods", methods)
}

/// What a method of no arguments says.
unsafe fn ask(method: &Py<PyAny>, this: Object) -> Object {
    // SAFETY: both are valid; attached.
    unsafe { ffi::PyObject_Vectorcall(method.as_ptr(), &this, 1, null_mut()) }
}

unsafe fn is(method: &Py<PyAny>, this: Object, expected: Object) -> bool {
    // SAFETY: as above. `True` and `False` live for ever.
    unsafe {
        let answer = ask(method, this);
        if answer.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        ffi::Py_DECREF(answer);
        answer == expected
    }
}

/// The descriptor of a file that may have to be waited for; else the original method is called,
/// also for what is wrong with the object.
unsafe fn waited_for(this: Object, able: &Py<PyAny>) -> Option<(RawFd, Kind)> {
    // SAFETY: as above.
    unsafe {
        if !is(&originals().seekable, this, ffi::Py_False()) || !is(able, this, ffi::Py_True()) {
            return None;
        }
        let fd = number_of(this)?;
        match kind_of(fd) {
            Kind::Straight => None,
            kind => Some((fd, kind)),
        }
    }
}

unsafe fn number_of(this: Object) -> Option<RawFd> {
    // SAFETY: as above.
    unsafe {
        let fd = ask(&originals().fileno, this);
        if fd.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let value = ffi::PyLong_AsLong(fd);
        ffi::Py_DECREF(fd);
        RawFd::try_from(value).ok().filter(|fd| *fd >= 0)
    }
}

unsafe fn pass_on(original: &Py<PyAny>, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: the arguments are what the interpreter passed.
    unsafe { ffi::PyObject_Vectorcall(original.as_ptr(), args, nargs as usize, null_mut()) }
}

/// What a method returns for a non-blocking file that has nothing.
fn or_none(result: Outcome<Option<Object>>) -> Object {
    raw::give(result.map(|object| object.unwrap_or_else(raw::none)))
}

unsafe extern "C" fn readinto(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: Python calls us, attached, with `nargs` arguments that it keeps alive.
    unsafe {
        let pass_on = || pass_on(&originals().readinto, args, nargs);
        if nargs != 2 {
            return pass_on();
        }
        let Some((fd, kind)) = waited_for(*args, &originals().readable) else {
            return pass_on();
        };
        let py = Python::assume_attached();
        let Ok(mut view) = View::get(&Borrowed::from_ptr(py, *args.add(1)), ffi::PyBUF_WRITABLE)
        else {
            return pass_on();
        };
        if view.len() == 0 {
            drop(view);
            return pass_on();
        }
        let vector = libc::iovec {
            iov_base: view.pointer(),
            iov_len: view.len(),
        };
        let result = super::read(py, fd, kind, &[vector]);
        drop(view);
        or_none(result.and_then(|count| count.map(number).transpose()))
    }
}

unsafe extern "C" fn read(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `readinto`.
    unsafe {
        let pass_on = || pass_on(&originals().read, args, nargs);
        let size = match nargs {
            1 => -1,
            2 if *args.add(1) == ffi::Py_None() => -1,
            2 => {
                let size = ffi::PyNumber_AsSsize_t(*args.add(1), ffi::PyExc_OverflowError);
                if size == -1 && !ffi::PyErr_Occurred().is_null() {
                    ffi::PyErr_Clear();
                    return pass_on();
                }
                size
            }
            _ => return pass_on(),
        };
        if size == 0 {
            return pass_on();
        }
        let Some((fd, kind)) = waited_for(*args, &originals().readable) else {
            return pass_on();
        };
        let py = Python::assume_attached();
        or_none(if size < 0 {
            read_to_the_end(py, fd, kind)
        } else {
            read_bytes(py, fd, kind, size as usize)
        })
    }
}

unsafe extern "C" fn readall(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `readinto`.
    unsafe {
        if nargs == 1
            && let Some((fd, kind)) = waited_for(*args, &originals().readable)
        {
            return or_none(read_to_the_end(Python::assume_attached(), fd, kind));
        }
        pass_on(&originals().readall, args, nargs)
    }
}

/// Everything up to the end, or up to where a non-blocking file has nothing at the moment.
fn read_to_the_end(py: Python<'_>, fd: RawFd, kind: Kind) -> Outcome<Option<Object>> {
    let mut data: Vec<u8> = Vec::new();
    loop {
        let vector = libc::iovec {
            iov_base: scratch().cast(),
            iov_len: SCRATCH,
        };
        // SAFETY: as in `read_bytes`.
        match unsafe { super::read(py, fd, kind, &[vector]) }? {
            Some(0) => break,
            Some(count) => {
                // SAFETY: the call has just filled so many bytes of the buffer.
                data.extend_from_slice(unsafe { std::slice::from_raw_parts(scratch(), count) });
            }
            None if data.is_empty() => return Ok(None),
            None => break,
        }
    }
    bytes(data.as_ptr(), data.len()).map(Some)
}

unsafe extern "C" fn write(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `readinto`.
    unsafe {
        let pass_on = || pass_on(&originals().write, args, nargs);
        if nargs != 2 {
            return pass_on();
        }
        let Some((fd, kind)) = waited_for(*args, &originals().writable) else {
            return pass_on();
        };
        let py = Python::assume_attached();
        let Ok(mut view) = View::get(&Borrowed::from_ptr(py, *args.add(1)), ffi::PyBUF_SIMPLE)
        else {
            return pass_on();
        };
        if view.len() == 0 {
            drop(view);
            return pass_on();
        }
        let result = write_view(py, fd, kind, &mut view);
        drop(view);
        or_none(result.and_then(|count| count.map(number).transpose()))
    }
}

unsafe extern "C" fn close(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `readinto`.
    unsafe {
        if nargs == 1
            && let Some(fd) = number_of(*args)
            && closes_its_descriptor(*args)
        {
            poll::closing(fd);
        }
        pass_on(&originals().close, args, nargs)
    }
}

unsafe fn closes_its_descriptor(this: Object) -> bool {
    // SAFETY: as above.
    unsafe {
        let answer = ffi::PyObject_GetAttrString(this, c"closefd".as_ptr());
        if answer.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        ffi::Py_DECREF(answer);
        answer == ffi::Py_True()
    }
}
