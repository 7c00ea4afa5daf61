//! `os.read`, `os.write`, `os.readv`, `os.writev` and `os.close` in a task.
//!
//! Arguments that are not just what the function wants go to the original, which has the words for
//! what is wrong with them.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;

use super::{Kind, kind_of};
use crate::errors::{self, Outcome, Raised};
use crate::poll;
use crate::raw::{self, Definition};
use crate::socket::buffer::View;
use crate::socket::receive::{_PyBytes_Resize, SCRATCH, bytes, scratch};
use crate::stack::Object;
use crate::task::release;

static READ: Definition = Definition::positional(c"os_read", os_read);
static WRITE: Definition = Definition::positional(c"os_write", os_write);
static READV: Definition = Definition::positional(c"os_readv", os_readv);
static WRITEV: Definition = Definition::positional(c"os_writev", os_writev);
static CLOSE: Definition = Definition::keywords(c"os_close", os_close);

struct Originals {
    read: Py<PyAny>,
    write: Py<PyAny>,
    readv: Py<PyAny>,
    writev: Py<PyAny>,
    close: Py<PyAny>,
}

static ORIGINALS: OnceLock<Originals> = OnceLock::new();

fn originals() -> &'static Originals {
    ORIGINALS
        .get()
        .expect("they are looked up when the module is made")
}

/// Adds the functions to the module. Called once, before anything is patched.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let posix = module.py().import("posix")?;
    let get = |name: &str| posix.getattr(name).map(Bound::unbind);
    let _ = ORIGINALS.set(Originals {
        read: get("read")?,
        write: get("write")?,
        readv: get("readv")?,
        writev: get("writev")?,
        close: get("close")?,
    });
    [&READ, &WRITE, &READV, &WRITEV, &CLOSE]
        .into_iter()
        .try_for_each(|function| function.add(module))
}

/// Calls the original with the arguments that its replacement got.
///
/// # Safety
/// They are what the interpreter passed.
unsafe fn pass_on(
    original: &Py<PyAny>,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: the caller's promise.
    unsafe { ffi::PyObject_Vectorcall(original.as_ptr(), args, nargs as usize, names) }
}

/// The descriptor that a plain integer names.
unsafe fn descriptor(object: Object) -> Option<RawFd> {
    // SAFETY: attached; a valid object.
    unsafe {
        if ffi::PyLong_CheckExact(object) == 0 {
            return None;
        }
        let mut overflow = 0;
        let value = ffi::PyLong_AsLongAndOverflow(object, &mut overflow);
        if overflow != 0 {
            return None;
        }
        RawFd::try_from(value).ok().filter(|fd| *fd >= 0)
    }
}

unsafe extern "C" fn os_read(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: Python calls us, attached, with `nargs` arguments that it keeps alive.
    unsafe {
        let pass_on = || pass_on(&originals().read, args, nargs, std::ptr::null_mut());
        if nargs != 2 || ffi::PyLong_CheckExact(*args.add(1)) == 0 {
            return pass_on();
        }
        let Some(fd) = descriptor(*args) else {
            return pass_on();
        };
        let size = ffi::PyLong_AsSsize_t(*args.add(1));
        if size <= 0 {
            ffi::PyErr_Clear();
            return pass_on();
        }
        let kind = kind_of(fd);
        if kind == Kind::Straight {
            return pass_on();
        }
        let py = Python::assume_attached();
        raw::give(
            read_bytes(py, fd, kind, size as usize)
                .and_then(|data| data.ok_or_else(|| errors::os_error(py, libc::EAGAIN).into())),
        )
    }
}

/// At most `size` bytes. `None`: non-blocking, and there is nothing.
pub(super) fn read_bytes(
    py: Python<'_>,
    fd: RawFd,
    kind: Kind,
    size: usize,
) -> Outcome<Option<Object>> {
    if size <= SCRATCH {
        let vector = libc::iovec {
            iov_base: scratch().cast(),
            iov_len: size,
        };
        // SAFETY: the scratch buffer has room for `size` bytes; others may write into it while the
        // task is parked, but nothing switches between the call that fills it and the copy.
        let count = unsafe { super::read(py, fd, kind, &[vector]) }?;
        return count.map(|count| bytes(scratch(), count)).transpose();
    }
    // Never more than Python's own reads ask for.
    let size = size.min(0x7fff_f000);
    let mut data = bytes(std::ptr::null(), size)?;
    let vector = libc::iovec {
        // SAFETY: a bytes object of that size, which nobody else has seen.
        iov_base: unsafe { ffi::PyBytes_AsString(data) }.cast(),
        iov_len: size,
    };
    // SAFETY: as above; it is on the heap.
    match unsafe { super::read(py, fd, kind, &[vector]) } {
        Ok(Some(count)) => {
            // SAFETY: the object has one reference; the call replaces or frees it.
            if count != size && unsafe { _PyBytes_Resize(&mut data, count as isize) } < 0 {
                return Err(Raised);
            }
            Ok(Some(data))
        }
        Ok(None) => {
            release(data);
            Ok(None)
        }
        Err(raised) => {
            release(data);
            Err(raised)
        }
    }
}

unsafe extern "C" fn os_write(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `os_read`.
    unsafe {
        let pass_on = || pass_on(&originals().write, args, nargs, std::ptr::null_mut());
        if nargs != 2 {
            return pass_on();
        }
        let Some(fd) = descriptor(*args) else {
            return pass_on();
        };
        let kind = kind_of(fd);
        if kind == Kind::Straight {
            return pass_on();
        }
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
        raw::give(count_or_again(py, result))
    }
}

/// Writes all of a buffer.
pub(super) fn write_view(
    py: Python<'_>,
    fd: RawFd,
    kind: Kind,
    view: &mut View,
) -> Outcome<Option<usize>> {
    let mut vectors = [libc::iovec {
        iov_base: view.pointer(),
        iov_len: view.len(),
    }];
    // SAFETY: the view keeps the buffer in place.
    unsafe { super::write(py, fd, kind, &mut vectors) }
}

fn count_or_again(py: Python<'_>, result: Outcome<Option<usize>>) -> Outcome<Object> {
    match result? {
        Some(count) => number(count),
        None => Err(errors::os_error(py, libc::EAGAIN).into()),
    }
}

/// A Python integer.
pub fn number(count: usize) -> Outcome<Object> {
    // SAFETY: attached, as every caller is.
    let count = unsafe { ffi::PyLong_FromSize_t(count) };
    if count.is_null() {
        return Err(Raised);
    }
    Ok(count)
}

/// The buffers of a sequence, and where they are. Both on the heap.
type Gathered = (Vec<Box<View>>, Vec<libc::iovec>);

/// `None`: something is wrong with the arguments, or there is nothing to do.
fn gather(buffers: &Bound<'_, PyAny>, flags: i32) -> Option<Gathered> {
    let count = buffers.len().ok()?;
    // More than this is EINVAL.
    if count == 0 || count > 1024 {
        return None;
    }
    let mut views = Vec::with_capacity(count);
    let mut vectors = Vec::with_capacity(count);
    for index in 0..count {
        let mut view = View::get(&buffers.get_item(index).ok()?, flags).ok()?;
        vectors.push(libc::iovec {
            iov_base: view.pointer(),
            iov_len: view.len(),
        });
        views.push(view);
    }
    vectors
        .iter()
        .any(|vector| vector.iov_len > 0)
        .then_some((views, vectors))
}

unsafe extern "C" fn os_readv(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `os_read`.
    unsafe {
        vectored(
            &originals().readv,
            args,
            nargs,
            ffi::PyBUF_WRITABLE,
            |py, fd, kind, vectors| super::read(py, fd, kind, vectors),
        )
    }
}

unsafe extern "C" fn os_writev(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: as in `os_read`.
    unsafe {
        vectored(
            &originals().writev,
            args,
            nargs,
            ffi::PyBUF_SIMPLE,
            |py, fd, kind, vectors| super::write(py, fd, kind, vectors),
        )
    }
}

unsafe fn vectored(
    original: &Py<PyAny>,
    args: *mut Object,
    nargs: isize,
    flags: i32,
    call: impl FnOnce(Python<'_>, RawFd, Kind, &mut [libc::iovec]) -> Outcome<Option<usize>>,
) -> Object {
    // SAFETY: as in `os_read`.
    unsafe {
        let pass_on = || pass_on(original, args, nargs, std::ptr::null_mut());
        if nargs != 2 || ffi::PySequence_Check(*args.add(1)) == 0 {
            return pass_on();
        }
        let Some(fd) = descriptor(*args) else {
            return pass_on();
        };
        let kind = kind_of(fd);
        if kind == Kind::Straight {
            return pass_on();
        }
        let py = Python::assume_attached();
        let Some((views, mut vectors)) = gather(&Borrowed::from_ptr(py, *args.add(1)), flags)
        else {
            return pass_on();
        };
        let result = call(py, fd, kind, &mut vectors);
        drop(views);
        raw::give(count_or_again(py, result))
    }
}

unsafe extern "C" fn os_close(
    _module: Object,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: as in `os_read`; the only argument may be a named one, which comes first too.
    unsafe {
        let named = if names.is_null() {
            0
        } else {
            ffi::PyTuple_Size(names)
        };
        if nargs + named == 1
            && let Some(fd) = descriptor(*args)
        {
            poll::closing(fd);
        }
        pass_on(&originals().close, args, nargs, names)
    }
}
