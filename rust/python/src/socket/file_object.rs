//! `readinto` and `write` of `socket.SocketIO`, the raw file under what `socket.makefile()` returns.
//!
//! They do what the standard library's methods do, without the four Python frames which those need
//! for a call: looking whether the file is closed and in the right mode, and calling `recv_into` or
//! `send` of a plain `socket.socket`. Any other case (a subclass, a TLS socket, somebody's own
//! `recv_into`, a file that is closed, or has timed out) goes to the method that was there before.
//!
//! The same for `write` of what `socketserver` gives its handlers to write to.

use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::Borrowed;
use pyo3::exceptions::{PyOSError, PyTimeoutError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

use super::object::Socket;
use super::receive::receive_into;
use super::send::{send_all, send_once};
use crate::errors::{Outcome, Raised};
use crate::file::descriptors::number;
use crate::raw::{self, Definition};
use crate::stack::Object;

static READINTO: Definition = Definition::positional(c"readinto", readinto);
static WRITE: Definition = Definition::positional(c"write", write);
static WRITE_ALL: Definition = Definition::positional(c"write", write_all);

/// What the methods have to know, looked up once. All references are owned, for ever.
struct Library {
    file: Watched<5>,
    socket: Watched<3>,
    readinto: Object,
    write: Object,
    sock: Object,
    reading: Object,
    writing: Object,
    timeout_occurred: Object,
    closed: Object,
}

// SAFETY: reached with the interpreter attached only.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// A class, and the attributes of it that must be what they were.
struct Watched<const N: usize> {
    kind: *mut ffi::PyTypeObject,
    attributes: [(Object, Object); N],
    /// The version of the class at which they last were.
    version: AtomicU32,
}

impl<const N: usize> Watched<N> {
    fn new(kind: &Bound<'_, PyType>, names: [&str; N]) -> PyResult<Self> {
        let mut attributes = [(null_mut(), null_mut()); N];
        for (place, name) in attributes.iter_mut().zip(names) {
            let value = kind.getattr(name)?;
            *place = (
                PyString::intern(kind.py(), name).into_ptr(),
                value.into_ptr(),
            );
        }
        Ok(Self {
            kind: kind.clone().into_ptr().cast(),
            attributes,
            version: AtomicU32::new(0),
        })
    }

    /// Whether the object is of this very class, and the class still is what it was.
    #[inline(always)]
    unsafe fn is_class_of(&self, object: Object) -> bool {
        // SAFETY: valid objects.
        unsafe {
            if ffi::Py_TYPE(object) != self.kind {
                return false;
            }
            let version = (*self.kind).tp_version_tag;
            (version != 0 && version == self.version.load(Ordering::Relaxed)) || self.look_again()
        }
    }

    #[cold]
    unsafe fn look_again(&self) -> bool {
        for (name, expected) in self.attributes {
            // SAFETY: attached; valid objects. Classes give the same object each time.
            unsafe {
                let value = ffi::PyObject_GetAttr(self.kind.cast(), name);
                if value.is_null() {
                    ffi::PyErr_Clear();
                    return false;
                }
                ffi::Py_DECREF(value);
                if value != expected {
                    return false;
                }
            }
        }
        // The look-ups have given the class a version, if it had none.
        // SAFETY: a valid type.
        let version = unsafe { (*self.kind).tp_version_tag };
        self.version.store(version, Ordering::Relaxed);
        true
    }
}

/// The methods of `SocketIO` for a task, by name. Called once, when the methods of `socket.socket`
/// are the patched ones and those of `SocketIO` the original ones.
#[pyfunction]
pub fn socket_io_methods<'py>(
    py: Python<'py>,
    kind: &Bound<'py, PyType>,
    socket: &Bound<'py, PyType>,
) -> PyResult<Bound<'py, PyDict>> {
    if LIBRARY.get().is_none() {
        let name = |text: &str| PyString::intern(py, text).into_ptr();
        let _ = LIBRARY.set(Library {
            file: Watched::new(
                kind,
                [
                    "_checkClosed",
                    "_checkReadable",
                    "_checkWritable",
                    "readable",
                    "writable",
                ],
            )?,
            socket: Watched::new(socket, ["recv_into", "send", "sendall"])?,
            readinto: kind.getattr("readinto")?.into_ptr(),
            write: kind.getattr("write")?.into_ptr(),
            sock: name("_sock"),
            reading: name("_reading"),
            writing: name("_writing"),
            timeout_occurred: name("_timeout_occurred"),
            // How `io` notes in the object that it is closed.
            closed: name("__IOBase_closed"),
        });
    }
    let methods = PyDict::new(py);
    for (name, definition) in [("readinto", &READINTO), ("write", &WRITE)] {
        // SAFETY: attached; the result is a new reference, or null.
        let function = unsafe { Bound::from_owned_ptr_or_err(py, definition.object()) }?;
        methods.set_item(name, function)?;
    }
    Ok(methods)
}

/// The socket, with a reference of its own, if the file is open, in the `mode`, and usual. Else the
/// original has the words for what is wrong.
#[inline(always)]
unsafe fn usual_socket(library: &Library, this: Object, mode: Object) -> Option<Object> {
    // SAFETY: a valid object, as the interpreter passed it.
    unsafe {
        if !library.file.is_class_of(this) {
            return None;
        }
        let dict = ffi::PyObject_GenericGetDict(this, null_mut());
        if dict.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        // The object keeps it alive. All keys are strings or are left alone, so no code runs.
        ffi::Py_DECREF(dict);
        let get = |name| ffi::PyDict_GetItemWithError(dict, name);
        let sock = get(library.sock);
        if sock.is_null()
            || !library.socket.is_class_of(sock)
            || get(mode) != ffi::Py_True()
            || get(library.timeout_occurred) != ffi::Py_False()
            || !get(library.closed).is_null()
        {
            return None;
        }
        ffi::Py_INCREF(sock);
        Some(sock)
    }
}

/// What the file returns for what the socket did.
#[inline(always)]
fn or_none(result: Outcome<usize>) -> Outcome<Object> {
    match result {
        Ok(count) => number(count),
        Err(Raised) => none_if_again(),
    }
}

/// `None` for the error of a call that would have to wait; any other stays.
#[cold]
fn none_if_again() -> Outcome<Object> {
    // SAFETY: attached: Python has called us.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::from(Raised);
    if error.is_instance_of::<PyOSError>(py) {
        let number = error
            .value(py)
            .getattr("errno")
            .and_then(|number| number.extract::<Option<i32>>());
        if let Ok(Some(libc::EAGAIN)) = number {
            return Ok(raw::none());
        }
    }
    Err(error.into())
}

/// A reference that is given up in the end.
struct Held(Object);

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: ours; attached.
        unsafe { ffi::Py_DECREF(self.0) };
    }
}

unsafe extern "C" fn readinto(_module: Object, args: *mut Object, nargs: isize) -> Object {
    let library = LIBRARY.get().expect("it was filled before this was made");
    // SAFETY: Python calls us, attached, with `nargs` arguments that it keeps alive.
    unsafe {
        let usual = if nargs == 2 {
            usual_socket(library, *args, library.reading)
        } else {
            None
        };
        let Some(sock) = usual.map(Held) else {
            return ffi::PyObject_Vectorcall(library.readinto, args, nargs as usize, null_mut());
        };
        let py = Python::assume_attached();
        let result = Socket::of_raw(py, sock.0)
            .and_then(|socket| receive_into(py, socket, *args.add(1), 0, 0));
        if result.is_err() {
            note_timeout(py, library, *args);
        }
        raw::give(or_none(result))
    }
}

/// After a failure: a file whose socket has timed out cannot be read from again.
#[cold]
unsafe fn note_timeout(py: Python<'_>, library: &Library, this: Object) {
    // SAFETY: an exception is set, and valid objects.
    unsafe {
        if ffi::PyErr_ExceptionMatches(py.get_type::<PyTimeoutError>().as_ptr()) == 0 {
            return;
        }
        let error = PyErr::fetch(py);
        let this = Borrowed::<PyAny>::from_ptr(py, this);
        let name = Borrowed::<PyAny>::from_ptr(py, library.timeout_occurred);
        match this.setattr(name.cast_unchecked::<PyString>(), true) {
            Ok(()) => error.restore(py),
            Err(other) => other.restore(py),
        }
    }
}

unsafe extern "C" fn write(_module: Object, args: *mut Object, nargs: isize) -> Object {
    let library = LIBRARY.get().expect("it was filled before this was made");
    // SAFETY: as in `readinto`.
    unsafe {
        let usual = if nargs == 2 {
            usual_socket(library, *args, library.writing)
        } else {
            None
        };
        let Some(sock) = usual.map(Held) else {
            return ffi::PyObject_Vectorcall(library.write, args, nargs as usize, null_mut());
        };
        let py = Python::assume_attached();
        let data = Borrowed::from_ptr(py, *args.add(1));
        let result = Socket::of_raw(py, sock.0).and_then(|socket| send_once(py, socket, &data, 0));
        raw::give(or_none(result))
    }
}

/// `socketserver`'s class of what a handler writes to, and its original `write`.
static WRITER: OnceLock<(Py<PyType>, Py<PyAny>)> = OnceLock::new();

/// `write` of that class, which is `kind`, for a task. Called once, after [`socket_io_methods`].
#[pyfunction]
pub fn socket_writer_method<'py>(kind: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let original = kind.getattr("write")?.unbind();
    let _ = WRITER.set((kind.clone().unbind(), original));
    // SAFETY: attached; the result is a new reference, or null.
    unsafe { Bound::from_owned_ptr_or_err(kind.py(), WRITE_ALL.object()) }
}

unsafe extern "C" fn write_all(_module: Object, args: *mut Object, nargs: isize) -> Object {
    let library = LIBRARY.get().expect("it was filled before this was made");
    let (kind, original) = WRITER.get().expect("as above");
    // SAFETY: as in `readinto`.
    unsafe {
        let usual = if nargs == 2
            && ffi::Py_TYPE(*args).cast() == kind.as_ptr()
            && ffi::PyBytes_CheckExact(*args.add(1)) != 0
        {
            socket_of(library, *args)
        } else {
            None
        };
        let Some(sock) = usual.map(Held) else {
            return ffi::PyObject_Vectorcall(original.as_ptr(), args, nargs as usize, null_mut());
        };
        let py = Python::assume_attached();
        let result = send_all(py, &[sock.0, *args.add(1)])
            .map(|()| ffi::PyBytes_Size(*args.add(1)) as usize)
            .and_then(number);
        raw::give(result)
    }
}

/// The socket that an object refers to, with a reference of its own, if it is a usual one.
unsafe fn socket_of(library: &Library, this: Object) -> Option<Object> {
    // SAFETY: as in `usual_socket`.
    unsafe {
        let dict = ffi::PyObject_GenericGetDict(this, null_mut());
        if dict.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        ffi::Py_DECREF(dict);
        let sock = ffi::PyDict_GetItemWithError(dict, library.sock);
        if sock.is_null() || !library.socket.is_class_of(sock) {
            return None;
        }
        ffi::Py_INCREF(sock);
        Some(sock)
    }
}
