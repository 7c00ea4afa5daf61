//! Socket calls that park.
//!
//! Sockets stay in the mode Python gave them: a blocking one is not made non-blocking, because that
//! belongs to the open file, which a child process may share. `MSG_DONTWAIT` serves for sending and
//! receiving; calls without flags are made non-blocking for the length of the one system call.

pub mod awaitable;
pub mod call;
pub mod file_object;
pub mod receive;
pub mod send;

pub mod buffer;
mod object;

use std::os::fd::RawFd;
use std::task::Poll;

use aevent_runtime::descriptor;
use aevent_runtime::reactor::Direction;
use pyo3::ffi;
use pyo3::prelude::*;

pub use object::{Socket, check_layout};

use crate::errors::{self, Outcome, Raised};
use crate::run_loop::{self, Loop};
use crate::stack::Object;
use crate::task::TaskRef;
use crate::wait;

/// The loop that a cooperative call runs in.
#[inline(always)]
pub fn here() -> PyResult<&'static Loop> {
    match run_loop::existing() {
        Some(event_loop) if run_loop::cooperates() => Ok(event_loop),
        _ => Err(errors::no_task("a socket call")),
    }
}

/// The running task. A reference of its own: nothing of the loop is borrowed while others run.
#[inline(always)]
pub fn me() -> PyResult<TaskRef> {
    run_loop::cooperating()
        .cloned()
        .ok_or_else(|| errors::no_task("a socket call"))
}

/// Waits until the socket may be ready. `Err`: timed out, closed meanwhile, cancelled.
#[inline(always)]
fn wait_ready(
    py: Python<'_>,
    event_loop: &Loop,
    socket: Socket,
    direction: Direction,
    deadline: u64,
) -> Outcome<()> {
    if wait_in_time(py, event_loop, socket, direction, deadline)? {
        Ok(())
    } else {
        Err(errors::timed_out().into())
    }
}

/// Waits until the socket may be ready: true; false at `deadline`. `Err`: closed meanwhile,
/// cancelled.
#[inline(never)]
pub fn wait_in_time(
    py: Python<'_>,
    event_loop: &Loop,
    socket: Socket,
    direction: Direction,
    deadline: u64,
) -> Outcome<bool> {
    let task = me()?;
    let fd = socket.fd();
    if fd < 0 {
        return Err(errors::os_error(py, libc::EBADF).into());
    }
    let generation = descriptor::generation(fd);
    match event_loop.scheduler.wait_ready(fd, direction, task.clone()) {
        Ok(true) => {}
        Ok(false) => return Ok(true),
        Err(error) => return Err(errors::from_io(py, &error).into()),
    }
    // One unpark is enough to try the call again; it says `EAGAIN` if there was another reason.
    let mut parked = false;
    let result = wait::park_until(py, event_loop, &task, deadline, false, |_| {
        if std::mem::replace(&mut parked, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    if descriptor::generation(fd) != generation || socket.fd() != fd {
        if socket.fd() == fd {
            // Another socket object took a number that is still this one's too.
            return result.map(|_| true);
        }
        if result.is_err() {
            // Closed and cancelled at once: the cancellation is what counts.
            return Err(Raised);
        }
        return Err(errors::os_error(py, libc::EBADF).into());
    }
    event_loop.scheduler.forget_ready(fd, direction, &task);
    result
}

/// Tries `call` until it says something else than `EAGAIN`.
#[inline(always)]
fn until_done(
    py: Python<'_>,
    socket: Socket,
    direction: Direction,
    deadline: &mut Option<u64>,
    mut call: impl FnMut(RawFd) -> isize,
) -> Outcome<usize> {
    let event_loop = here()?;
    loop {
        let fd = socket.fd();
        if fd < 0 {
            return Err(errors::os_error(py, libc::EBADF).into());
        }
        if event_loop.scheduler.may_try(fd, direction) {
            let result = call(fd);
            if result >= 0 {
                return Ok(result as usize);
            }
            match errno() {
                libc::EAGAIN => event_loop.scheduler.exhausted(fd, direction),
                libc::EINTR => {
                    // SAFETY: attached.
                    if unsafe { ffi::PyErr_CheckSignals() } != 0 {
                        return Err(Raised);
                    }
                    continue;
                }
                error => return Err(errors::os_error(py, error).into()),
            }
        }
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        wait_ready(py, event_loop, socket, direction, until)?;
    }
}

/// The last system call's error.
#[inline(always)]
pub fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Before a call: others may run if the task's time slice is over. Before, since it may raise, and
/// what a call has received or sent must not be lost.
#[inline(always)]
pub fn breathe(py: Python<'_>) -> Outcome<()> {
    match run_loop::existing() {
        Some(event_loop) => event_loop.breathe(py),
        None => Ok(()),
    }
}

/// Whether a call with these flags waits for nothing. `MSG_DONTWAIT` counts for a blocking socket
/// only: one with a timeout waits in spite of it, as it does in CPython.
#[inline(always)]
fn no_wait(socket: Socket, flags: i32) -> bool {
    match socket.timeout() {
        0 => true,
        timeout => timeout < 0 && flags & libc::MSG_DONTWAIT != 0,
    }
}

/// A Python integer, or what has `__index__`.
#[inline(always)]
fn integer(_py: Python<'_>, object: Object) -> Outcome<isize> {
    // SAFETY: attached, as there is a `Python`; the object is the caller's.
    unsafe {
        let value = ffi::PyNumber_AsSsize_t(object, ffi::PyExc_OverflowError);
        if value == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        Ok(value)
    }
}

/// A socket object has taken over its descriptor: what was known about the number is void.
#[pyfunction]
pub fn socket_opened(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let fd = Socket::of(sock)?.fd();
    if fd >= 0 {
        descriptor::renew(fd);
    }
    Ok(())
}

/// A socket is about to close or give up its descriptor: whoever waits for it is woken.
#[pyfunction]
pub fn socket_closing(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let fd = Socket::of(sock)?.fd();
    if fd >= 0 {
        run_loop::close_descriptor(fd);
    }
    Ok(())
}
