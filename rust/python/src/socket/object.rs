//! CPython's socket objects.
//!
//! The descriptor and the timeout are read from the object itself. Its C struct is private to CPython
//! but has not changed since 3.5; [`check_layout`] compares it with what the public methods say when
//! the module is imported, and refuses to load otherwise.

use std::os::fd::RawFd;

use aevent_runtime::clock::{self, NEVER};
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::Outcome;
use crate::stack::Object;

/// The beginning of CPython's `PySocketSockObject`.
#[repr(C)]
struct SocketObject {
    base: ffi::PyObject,
    fd: libc::c_int,
    family: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
    errorhandler: *mut std::ffi::c_void,
    /// Nanoseconds; negative: blocking; zero: non-blocking.
    timeout: i64,
}

/// A socket object, borrowed for the length of a call.
#[derive(Clone, Copy)]
pub struct Socket(*mut SocketObject);

impl Socket {
    #[inline(always)]
    pub(super) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::of_raw(object.py(), object.as_ptr())?)
    }

    /// TypeError if the object is no socket.
    #[inline(always)]
    pub fn of_raw(py: Python<'_>, object: Object) -> Outcome<Self> {
        let kind = socket_type(py)?;
        // SAFETY: both are valid; a type check reads only.
        if unsafe { ffi::PyObject_TypeCheck(object, kind) } == 0 {
            return Err(PyTypeError::new_err("a socket object is required").into());
        }
        Ok(Self(object.cast()))
    }

    /// The descriptor; -1 once it is closed.
    #[inline(always)]
    pub fn fd(self) -> RawFd {
        // SAFETY: the object is alive, since the caller of ours holds it, and has this layout.
        unsafe { (*self.0).fd }
    }

    /// Nanoseconds; negative: blocking; zero: non-blocking.
    #[inline(always)]
    pub fn timeout(self) -> i64 {
        // SAFETY: as above.
        unsafe { (*self.0).timeout }
    }

    fn set_timeout(self, timeout: i64) {
        // SAFETY: as above; attached, so nobody reads it at the same time.
        unsafe { (*self.0).timeout = timeout }
    }

    /// Calls `call` with the socket non-blocking and the timeout replaced for just that long.
    #[inline(always)]
    pub fn with_timeout<T>(self, timeout: i64, call: impl FnOnce() -> T) -> T {
        let before = self.timeout();
        let fd = self.fd();
        // A socket with a timeout is in non-blocking mode already; Python did that.
        let blocking = before < 0;
        if blocking {
            set_nonblocking(fd, true);
        }
        self.set_timeout(timeout);
        let result = call();
        // It may have been closed, or given another timeout, by another thread during the call.
        if self.fd() == fd && self.timeout() == timeout {
            self.set_timeout(before);
            if blocking {
                set_nonblocking(fd, false);
            }
        }
        result
    }

    #[inline(always)]
    pub(super) fn is_stream(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).kind == libc::SOCK_STREAM }
    }

    /// The deadline of a call that begins to wait now.
    pub fn deadline(self) -> u64 {
        match self.timeout() {
            timeout if timeout < 0 => NEVER,
            timeout => clock::now().saturating_add(timeout as u64),
        }
    }
}

fn set_nonblocking(fd: RawFd, value: bool) {
    let mut value = libc::c_int::from(value);
    // SAFETY: `FIONBIO` reads one int.
    unsafe { libc::ioctl(fd, libc::FIONBIO, &mut value) };
}

/// `_socket.socket`, cached.
#[inline(always)]
fn socket_type(py: Python<'_>) -> PyResult<*mut ffi::PyTypeObject> {
    use std::sync::atomic::{AtomicPtr, Ordering};
    static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
    let known = TYPE.load(Ordering::Relaxed);
    if !known.is_null() {
        return Ok(known);
    }
    let kind = py.import("_socket")?.getattr("socket")?;
    let pointer = kind.into_ptr().cast();
    TYPE.store(pointer, Ordering::Relaxed);
    Ok(pointer)
}

/// Compares the layout that we assume with what public methods say. At import.
pub fn check_layout(py: Python<'_>) -> PyResult<()> {
    let refuse = || {
        PyImportError::new_err(
            "aevent does not know this Python's socket objects: their C layout differs from that \
             of CPython 3.5 to 3.14. Please report the version of Python.",
        )
    };
    let constructor = py.import("_socket")?.getattr("socket")?;
    for (family, kind, timeout) in [
        (libc::AF_UNIX, libc::SOCK_STREAM, 1.5),
        (libc::AF_UNIX, libc::SOCK_DGRAM, 0.0),
    ] {
        let object = constructor.call1((family, kind, 0))?;
        let socket = Socket::of(&object)?;
        if socket.timeout() >= 0 {
            return Err(refuse());
        }
        object.call_method1("settimeout", (timeout,))?;
        let fd: RawFd = object.call_method0("fileno")?.extract()?;
        // SAFETY: as in `Socket::fd`.
        let seen = unsafe { ((*socket.0).family, (*socket.0).kind, (*socket.0).protocol) };
        if socket.fd() != fd
            || seen != (family, kind, 0)
            || socket.timeout() != (timeout * 1e9) as i64
        {
            return Err(refuse());
        }
        object.call_method0("close")?;
        if socket.fd() != -1 {
            return Err(refuse());
        }
    }
    Ok(())
}
