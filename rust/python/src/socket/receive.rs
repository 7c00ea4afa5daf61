//! `recv` and `recv_into`.

use std::cell::UnsafeCell;
use std::os::fd::RawFd;

use aevent_runtime::reactor::Direction;
use pyo3::Borrowed;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::buffer::View;
use super::object::Socket;
use super::{breathe, errno, integer, no_wait, until_done};
use crate::errors::{self, Outcome, Raised};
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;

/// `socket.recv` in a task.
pub static RECV: Definition = Definition::positional(c"socket_recv", recv);

/// The largest read that goes through the thread's scratch buffer.
pub const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Where data arrives before its size is known. Nothing is kept in it across a switch. It stays
    /// in the cache; a buffer of the asked-for size, held by each parked task, would not.
    static BUFFER: UnsafeCell<Vec<u8>> = const { UnsafeCell::new(Vec::new()) };
}

/// This thread's scratch buffer of `SCRATCH` bytes.
#[inline(always)]
pub fn scratch() -> *mut u8 {
    BUFFER.with(|buffer| {
        // SAFETY: only this function refers to the vector, and lets go at once; it never shrinks.
        let buffer = unsafe { &mut *buffer.get() };
        if buffer.is_empty() {
            buffer.resize(SCRATCH, 0);
        }
        buffer.as_mut_ptr()
    })
}

unsafe extern "C" fn recv(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: attached: Python calls us, with `nargs` arguments that it keeps alive.
    let (py, args) = unsafe {
        (
            Python::assume_attached(),
            std::slice::from_raw_parts(args, nargs as usize),
        )
    };
    raw::give(parse_recv(py, args).and_then(|(socket, size, flags)| {
        if size <= SCRATCH && flags & libc::MSG_WAITALL == 0 {
            recv_small(py, socket, size, flags)
        } else {
            recv_large(py, socket, size, flags)
        }
    }))
}

#[inline(never)]
fn parse_recv(py: Python<'_>, args: &[Object]) -> Outcome<(Socket, usize, i32)> {
    if !(2..=3).contains(&args.len()) {
        return Err(PyTypeError::new_err(format!(
            "recv expected 1 or 2 arguments, got {}",
            args.len().saturating_sub(1)
        ))
        .into());
    }
    let socket = Socket::of_raw(py, args[0])?;
    let size = integer(py, args[1])?;
    let flags = match args.get(2) {
        Some(flags) => integer(py, *flags)? as i32,
        None => 0,
    };
    if size < 0 {
        return Err(PyValueError::new_err("negative buffersize in recv").into());
    }
    Ok((socket, size as usize, flags))
}

/// A new bytes object. Null with an exception set if there is no memory.
pub fn bytes(data: *const u8, size: usize) -> Outcome<Object> {
    // SAFETY: attached; `data` is valid for `size` bytes, or null for an uninitialised object.
    let bytes = unsafe { ffi::PyBytes_FromStringAndSize(data.cast(), size as isize) };
    if bytes.is_null() {
        return Err(Raised);
    }
    Ok(bytes)
}

#[inline(always)]
fn recv_small(py: Python<'_>, socket: Socket, size: usize, flags: i32) -> Outcome<Object> {
    let count = receive(py, socket, size, flags, |fd, flags| {
        // SAFETY: the scratch buffer has room for `size` bytes.
        unsafe { libc::recv(fd, scratch().cast(), size, flags) }
    })?;
    // Nothing has switched since the call, so the buffer still holds what it got.
    bytes(scratch(), count)
}

#[inline(never)]
fn recv_large(py: Python<'_>, socket: Socket, size: usize, flags: i32) -> Outcome<Object> {
    let mut data = bytes(std::ptr::null(), size)?;
    // SAFETY: a bytes object of that size, which nobody else has seen. It is on the heap, so it
    // stays where it is while the task parks.
    let buffer: *mut libc::c_void = unsafe { ffi::PyBytes_AsString(data) }.cast();
    let result = receive_whole(py, socket, size, flags, |fd, got, flags| {
        // SAFETY: the object has room for `size` bytes, of which `got` are filled.
        unsafe { libc::recv(fd, buffer.byte_add(got), size - got, flags) }
    });
    match result {
        Ok(count) => {
            // SAFETY: the object has one reference; the call replaces or frees it.
            if count != size && unsafe { _PyBytes_Resize(&mut data, count as isize) } < 0 {
                return Err(Raised);
            }
            Ok(data)
        }
        Err(raised) => {
            crate::task::release(data);
            Err(raised)
        }
    }
}

unsafe extern "C" {
    /// Documented in CPython's API, but not declared by pyo3.
    pub fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: isize) -> i32;
}

/// Receives by `call(fd, flags)`, and notes what the answer says about the socket's readiness.
#[inline(always)]
fn receive(
    py: Python<'_>,
    socket: Socket,
    size: usize,
    flags: i32,
    mut call: impl FnMut(RawFd, i32) -> isize,
) -> Outcome<usize> {
    if no_wait(socket, flags) {
        // Non-blocking by the user's wish: no parking.
        let result = call(socket.fd(), flags | libc::MSG_DONTWAIT);
        if result < 0 {
            return Err(errors::os_error(py, errno()).into());
        }
        return Ok(result as usize);
    }
    breathe(py)?;
    let mut deadline = None;
    let count = until_done(py, socket, Direction::Read, &mut deadline, |fd| {
        call(fd, flags | libc::MSG_DONTWAIT)
    })?;
    if flags == 0
        && count < size
        && count > 0
        && socket.is_stream()
        && let Some(event_loop) = run_loop::existing()
    {
        event_loop.scheduler.read_short(socket.fd());
    }
    Ok(count)
}

/// The same by `call(fd, got, flags)`, where `got` bytes are there already.
///
/// With `MSG_WAITALL`, a stream that may block gives all that was asked for, but for its end. (The
/// kernel does not wait when `MSG_DONTWAIT` is there, too.) An exception in between, as that of a
/// cancellation, loses what is there.
#[inline(always)]
fn receive_whole(
    py: Python<'_>,
    socket: Socket,
    size: usize,
    flags: i32,
    mut call: impl FnMut(RawFd, usize, i32) -> isize,
) -> Outcome<usize> {
    let mut got = receive(py, socket, size, flags, |fd, flags| call(fd, 0, flags))?;
    if flags & libc::MSG_WAITALL != 0
        && flags & (libc::MSG_PEEK | libc::MSG_DONTWAIT) == 0
        && socket.timeout() < 0
        && socket.is_stream()
    {
        let mut last = got;
        while last > 0 && got < size {
            last = receive(py, socket, size - got, flags, |fd, flags| {
                call(fd, got, flags)
            })?;
            got += last;
        }
    }
    Ok(got)
}

/// `socket.recv_into` in a task.
pub static RECV_INTO: Definition = Definition::keywords(c"socket_recv_into", recv_into);

unsafe extern "C" fn recv_into(
    _module: Object,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: attached: Python calls us, with `nargs` arguments, and as many more as there are
    // names, that it keeps alive.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: as above.
    let parsed = unsafe { parse_recv_into(py, args, nargs as usize, names) };
    raw::give(parsed.and_then(|(socket, buffer, size, flags)| {
        let count = receive_into(py, socket, buffer, size, flags)?;
        // SAFETY: attached.
        let count = unsafe { ffi::PyLong_FromSize_t(count) };
        if count.is_null() {
            return Err(Raised);
        }
        Ok(count)
    }))
}

/// The arguments `sock, buffer, nbytes=0, flags=0`.
///
/// # Safety
/// As for a function that Python calls.
#[inline(never)]
unsafe fn parse_recv_into(
    py: Python<'_>,
    args: *const Object,
    nargs: usize,
    names: Object,
) -> Outcome<(Socket, Object, isize, i32)> {
    let mut found: [Object; 4] = [std::ptr::null_mut(); 4];
    if nargs > found.len() {
        return Err(PyTypeError::new_err(format!(
            "recv_into() takes at most 3 arguments ({} given)",
            nargs - 1
        ))
        .into());
    }
    for (index, place) in found.iter_mut().enumerate().take(nargs) {
        // SAFETY: there are `nargs` of them.
        *place = unsafe { *args.add(index) };
    }
    if !names.is_null() {
        // SAFETY: the names are a tuple of strings, alive during the call.
        let names = unsafe { Borrowed::<PyAny>::from_ptr(py, names) };
        for (index, name) in names.try_iter()?.enumerate() {
            let name: String = name?.extract()?;
            let place = ["buffer", "nbytes", "flags"]
                .iter()
                .position(|known| *known == name)
                .map(|position| position + 1)
                .filter(|position| found[*position].is_null())
                .ok_or_else(|| {
                    PyTypeError::new_err(format!(
                        "recv_into() got an unexpected or repeated keyword argument '{name}'"
                    ))
                })?;
            // SAFETY: the values of the names follow the positional arguments.
            found[place] = unsafe { *args.add(nargs + index) };
        }
    }
    if found[1].is_null() {
        return Err(
            PyTypeError::new_err("recv_into() missing required argument 'buffer' (pos 1)").into(),
        );
    }
    let socket = Socket::of_raw(py, found[0])?;
    let number = |object: Object| {
        if object.is_null() {
            Ok(0)
        } else {
            integer(py, object)
        }
    };
    Ok((
        socket,
        found[1],
        number(found[2])?,
        number(found[3])? as i32,
    ))
}

/// `recv_into(buffer, nbytes, flags)`.
#[inline(always)]
pub(super) fn receive_into(
    py: Python<'_>,
    socket: Socket,
    buffer: Object,
    nbytes: isize,
    flags: i32,
) -> Outcome<usize> {
    // SAFETY: the caller of ours keeps the buffer alive.
    let buffer = unsafe { Borrowed::from_ptr(py, buffer) };
    let mut view = View::get_writable(&buffer)?;
    if nbytes < 0 {
        return Err(PyValueError::new_err("negative buffersize in recv_into").into());
    }
    let size = if nbytes == 0 {
        view.len()
    } else {
        nbytes as usize
    };
    if size > view.len() {
        return Err(PyValueError::new_err("buffer too small for requested bytes").into());
    }
    let pointer = view.pointer();
    receive_whole(py, socket, size, flags, |fd, got, flags| {
        // SAFETY: the view keeps the buffer in place, and `size` is at most its length; `got` bytes
        // of it are filled.
        unsafe { libc::recv(fd, pointer.byte_add(got), size - got, flags) }
    })
}
