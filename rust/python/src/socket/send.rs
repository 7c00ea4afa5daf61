//! `send` and `sendall`.

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::reactor::Direction;
use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::buffer::View;
use super::object::Socket;
use super::{breathe, errno, integer, no_wait, until_done};
use crate::errors::{self, Outcome};
use crate::raw::{self, Definition};
use crate::stack::Object;

fn transmit(
    py: Python<'_>,
    socket: Socket,
    data: *const u8,
    size: usize,
    flags: i32,
    deadline: &mut Option<u64>,
) -> Outcome<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the view that the caller holds keeps the data in place.
    until_done(py, socket, Direction::Write, deadline, |fd| unsafe {
        libc::send(fd, data.cast(), size, flags)
    })
}

/// `socket.send` in a task.
#[pyfunction]
#[pyo3(signature = (sock, data, flags=0, /))]
pub fn socket_send(
    py: Python<'_>,
    sock: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    flags: i32,
) -> PyResult<usize> {
    Ok(send_once(py, Socket::of(sock)?, data, flags)?)
}

/// `send(data, flags)`.
pub(super) fn send_once(
    py: Python<'_>,
    socket: Socket,
    data: &Bound<'_, PyAny>,
    flags: i32,
) -> Outcome<usize> {
    let mut view = View::get(data, ffi::PyBUF_SIMPLE)?;
    if no_wait(socket, flags) {
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the view keeps the data in place.
        let result = unsafe { libc::send(socket.fd(), view.pointer(), view.len(), flags) };
        if result < 0 {
            return Err(errors::os_error(py, errno()).into());
        }
        return Ok(result as usize);
    }
    breathe(py)?;
    let size = view.len();
    let data = view.pointer().cast::<u8>().cast_const();
    let mut sent = transmit(py, socket, data, size, flags, &mut None)?;
    if sent < size && socket.timeout() < 0 && socket.is_stream() {
        // One that blocks is done when the kernel has it all, and callers count on that.
        while sent < size {
            // SAFETY: `sent` is less than `size`; the view keeps the data in place.
            let rest = unsafe { data.add(sent) };
            sent += transmit(py, socket, rest, size - sent, flags, &mut None)?;
        }
    }
    Ok(sent)
}

/// `socket.sendall` in a task. The timeout is for the whole.
pub static SENDALL: Definition = Definition::positional(c"socket_sendall", sendall);

unsafe extern "C" fn sendall(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: attached: Python calls us, with `nargs` arguments that it keeps alive.
    let (py, args) = unsafe {
        (
            Python::assume_attached(),
            std::slice::from_raw_parts(args, nargs as usize),
        )
    };
    raw::give(send_all(py, args).map(|()| raw::none()))
}

/// `sendall(data, flags)`; the socket is the first argument.
pub(super) fn send_all(py: Python<'_>, args: &[Object]) -> Outcome<()> {
    if !(2..=3).contains(&args.len()) {
        return Err(PyTypeError::new_err(format!(
            "sendall expected 1 or 2 arguments, got {}",
            args.len().saturating_sub(1)
        ))
        .into());
    }
    let socket = Socket::of_raw(py, args[0])?;
    let flags = match args.get(2) {
        Some(flags) => integer(py, *flags)? as i32,
        None => 0,
    };
    // Mostly a bytes object, and mostly all of it goes at once.
    // SAFETY: the caller of ours keeps the object alive; bytes do not move.
    let (data, size, view) = unsafe {
        if ffi::PyBytes_CheckExact(args[1]) != 0 {
            let data = ffi::PyBytes_AsString(args[1]).cast::<u8>();
            (data.cast_const(), ffi::PyBytes_Size(args[1]) as usize, None)
        } else {
            let mut view = View::get(&Borrowed::from_ptr(py, args[1]), ffi::PyBUF_SIMPLE)?;
            (
                view.pointer().cast::<u8>().cast_const(),
                view.len(),
                Some(view),
            )
        }
    };
    let result = breathe(py).and_then(|()| send_whole(py, socket, data, size, flags));
    drop(view);
    result
}

/// Sends `size` bytes.
#[inline(always)]
fn send_whole(
    py: Python<'_>,
    socket: Socket,
    data: *const u8,
    size: usize,
    flags: i32,
) -> Outcome<()> {
    let mut sent = 0;
    let mut deadline = None;
    loop {
        // SAFETY: `sent` is at most `size`; the caller keeps the data in place.
        let rest = unsafe { data.add(sent) };
        if no_wait(socket, flags) {
            let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as above.
            let result = unsafe { libc::send(socket.fd(), rest.cast(), size - sent, flags) };
            if result < 0 {
                return Err(errors::os_error(py, errno()).into());
            }
            sent += result as usize;
        } else {
            sent += transmit(py, socket, rest, size - sent, flags, &mut deadline)?;
        }
        if sent >= size {
            return Ok(());
        }
        // What follows is part of the same call: one timeout for the whole of it.
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        if until != NEVER && clock::now() >= until {
            return Err(errors::timed_out().into());
        }
    }
}
