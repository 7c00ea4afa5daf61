//! Opening FIFOs, which waits for somebody to open the other end.
//!
//! There is no event for that, so the call is made in another thread. If the task gives up, the
//! thread is let go by opening the other end for a moment: what it opened would otherwise stand in
//! for a reader or a writer that does not exist.

use std::ffi::{CStr, CString};
use std::future::Future;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use aevent_runtime::offload::{Job, Offload};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::bridge;
use crate::errors;
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;
use crate::wait;

type Opened = Result<OwnedFd, i32>;

struct Opening {
    job: Job<Opened>,
    path: CString,
    other_end: libc::c_int,
}

impl Future for Opening {
    type Output = std::thread::Result<Opened>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.job).poll(cx);
        if result.is_ready() {
            self.other_end = -1;
        }
        result
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.other_end < 0 || self.job.is_done() {
            return;
        }
        // SAFETY: the path is a C string; what was opened is closed.
        unsafe {
            let fd = libc::open(
                self.path.as_ptr(),
                self.other_end | libc::O_NONBLOCK | libc::O_CLOEXEC,
            );
            if fd >= 0 {
                libc::close(fd);
            }
        }
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn open_fifo(py: Python<'_>, path: Vec<u8>, flags: i32, mode: u32) -> PyResult<i32> {
    if let Some(task) = run_loop::cooperating() {
        wait::check(task)?;
    }
    let path = CString::new(path)?;
    let theirs = path.clone();
    let job = Offload::global().run(move || {
        loop {
            // SAFETY: the path is a C string; the descriptor is new, and owned from here on.
            unsafe {
                let fd = libc::open(theirs.as_ptr(), flags, mode as libc::c_uint);
                if fd >= 0 {
                    return Ok(OwnedFd::from_raw_fd(fd));
                }
                match *libc::__errno_location() {
                    libc::EINTR => {}
                    errno => return Err(errno),
                }
            }
        }
    });
    let other_end = if flags & libc::O_ACCMODE == libc::O_RDONLY {
        libc::O_WRONLY
    } else {
        libc::O_RDONLY
    };
    let opening = Opening {
        job,
        path,
        other_end,
    };
    match bridge::park_on(py, Box::pin(opening))? {
        Ok(Ok(fd)) => Ok(fd.into_raw_fd()),
        Ok(Err(errno)) => Err(errors::os_error(py, errno)),
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Whether a path, in any form that `open()` takes, names a FIFO. False for what names nothing.
#[pyfunction]
pub fn is_fifo(py: Python<'_>, path: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached, a valid object.
    unsafe { names_fifo(py, path.as_ptr()) }
}

unsafe fn names_fifo(py: Python<'_>, path: Object) -> bool {
    // SAFETY: the caller's object; the converter stores a new reference to a bytes object, which
    // has no zero in it.
    unsafe {
        if ffi::PyLong_Check(path) != 0 {
            return false;
        }
        let mut encoded: Object = std::ptr::null_mut();
        if ffi::PyUnicode_FSConverter(path, (&raw mut encoded).cast()) == 0 {
            ffi::PyErr_Clear();
            return false;
        }
        let name: CString = CStr::from_ptr(ffi::PyBytes_AsString(encoded)).into();
        ffi::Py_DECREF(encoded);
        // It may lie on another machine's disk.
        py.detach(|| {
            let mut status: libc::stat = std::mem::zeroed();
            libc::stat(name.as_ptr(), &mut status) == 0
                && status.st_mode & libc::S_IFMT == libc::S_IFIFO
        })
    }
}

static OPENER: Definition = Definition::keywords(c"open", open);

/// A function like `original`, the builtin `open`, that calls `for_fifos` for them.
#[pyfunction]
fn opener<'py>(
    original: &Bound<'py, PyAny>,
    for_fifos: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(original.py(), OPENER.that_knows([original, for_fifos])) }
}

/// Adds `opener` to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(opener, module)?)
}

unsafe extern "C" fn open(
    this: Object,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: Python calls us with the arguments; the function knows both.
    unsafe {
        let [original, for_fifos] = *raw::known(this);
        let function = if nargs > 0 && names_fifo(Python::assume_attached(), *args) {
            for_fifos
        } else {
            original
        };
        ffi::PyObject_Vectorcall(function, args, nargs as usize, names)
    }
}
