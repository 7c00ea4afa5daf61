//! The other methods: the original is called where it would not block. Calls without flags are made
//! non-blocking for the length of the one system call.

use std::cell::Cell;

use aevent_runtime::reactor::Direction;
use pyo3::exceptions::{PyBlockingIOError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::object::Socket;
use super::{breathe, here, no_wait, wait_ready};
use crate::errors;
use crate::run_loop::Loop;

/// Calls `method(sock, *args, **kwargs)`, one of the original socket methods, so that it cannot
/// block: with the socket non-blocking for the length of the call.
fn call_without_blocking<'py>(
    socket: Socket,
    sock: &Bound<'py, PyAny>,
    method: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = sock.py();
    socket.with_timeout(0, || match args.len() {
        0 => method.call((sock,), kwargs),
        1 => method.call((sock, args.get_item(0)?), kwargs),
        _ => {
            let mut all: Vec<Bound<'py, PyAny>> = vec![sock.clone()];
            all.extend(args.iter());
            method.call(PyTuple::new(py, all)?, kwargs)
        }
    })
}

/// Calls one of the original socket methods in a task, parking where it would block. `write` tells
/// which readiness it waits for.
#[pyfunction]
#[pyo3(signature = (method, write, sock, args, kwargs=None))]
pub fn socket_call<'py>(
    py: Python<'py>,
    method: &Bound<'py, PyAny>,
    write: bool,
    sock: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let socket = Socket::of(sock)?;
    if no_wait(socket, 0) || socket.fd() < 0 {
        let mut all: Vec<Bound<'py, PyAny>> = vec![sock.clone()];
        all.extend(args.iter());
        return method.call(PyTuple::new(py, all)?, kwargs);
    }
    let direction = if write {
        Direction::Write
    } else {
        Direction::Read
    };
    let event_loop = here()?;
    breathe(py)?;
    let mut deadline = None;
    loop {
        let fd = socket.fd();
        if fd < 0 {
            return Err(errors::os_error(py, libc::EBADF));
        }
        if event_loop.scheduler.may_try(fd, direction) {
            match call_without_blocking(socket, sock, method, args, kwargs) {
                Ok(value) => return Ok(value),
                Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => {
                    event_loop.scheduler.exhausted(fd, direction);
                }
                Err(error) => return Err(error),
            }
        }
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        wait_ready(py, event_loop, socket, direction, until)?;
    }
}

/// A burst of connections from this OS thread to this machine.
struct Burst {
    /// How many were made in the present round.
    made: Cell<u32>,
    /// A round ends when all who were ready at some moment in it have had a turn.
    round: Cell<u32>,
}

thread_local!(static BURST: Burst = const { Burst { made: Cell::new(0), round: Cell::new(0) } });

/// Whether the address is one of this machine's, as far as can be seen.
fn is_local(address: &Bound<'_, PyAny>) -> bool {
    let Ok(address) = address.cast::<PyTuple>() else {
        return false;
    };
    address.get_item(0).is_ok_and(|host| {
        host.extract::<&str>()
            .is_ok_and(|host| host.starts_with("127.") || host == "::1")
    })
}

/// Before a connection to this machine: if some were made just now, lets everybody else have a turn. Among
/// them may be their server, and what does not fit into its backlog the kernel tries again seconds
/// later, all at once and again in vain.
fn wait_for_turn(py: Python<'_>, event_loop: &Loop) -> PyResult<()> {
    /// As many fit into a backlog of five, with one to spare.
    const AT_ONCE: u32 = 4;
    /// Then it goes on: who has so many clients has a longer backlog, and each turn is everybody's.
    const ROUNDS_AT_MOST: u32 = 100;
    for _ in 0..ROUNDS_AT_MOST {
        let round = BURST.with(|burst| burst.round.get());
        if BURST.with(|burst| burst.made.get()) < AT_ONCE {
            break;
        }
        event_loop.yield_now(py)?;
        BURST.with(|burst| {
            if burst.round.get() == round {
                burst.round.set(round.wrapping_add(1));
                burst.made.set(0);
            }
        });
    }
    BURST.with(|burst| burst.made.set(burst.made.get() + 1));
    Ok(())
}

/// `socket.connect` in a task: `method` is the original. Returns the errno of the outcome, 0 if it
/// is connected.
#[pyfunction]
pub fn socket_connect<'py>(
    py: Python<'py>,
    method: &Bound<'py, PyAny>,
    sock: &Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
) -> PyResult<i32> {
    let socket = Socket::of(sock)?;
    if !no_wait(socket, 0) && is_local(&address) {
        wait_for_turn(py, here()?)?;
    }
    let args = PyTuple::new(py, [address])?;
    let result = call_without_blocking(socket, sock, method, &args, None);
    let Err(error) = result else {
        if !no_wait(socket, 0) {
            let event_loop = here()?;
            event_loop.look_ahead();
            event_loop.yield_now(py)?;
        }
        return Ok(0);
    };
    if !error.is_instance_of::<PyOSError>(py) {
        return Err(error);
    }
    let errno = error.value(py).getattr("errno")?;
    if errno.is_none() {
        return Err(error);
    }
    let number: i32 = errno.extract()?;
    if no_wait(socket, 0) || !matches!(number, libc::EINPROGRESS | libc::EAGAIN | libc::EINTR) {
        // Also a name look-up's error, which has a number of its own.
        return Err(error);
    }
    if number == libc::EAGAIN {
        // A UNIX socket whose listener's backlog is full: there is no event for that.
        return Ok(libc::EAGAIN);
    }
    let event_loop = here()?;
    event_loop
        .scheduler
        .exhausted(socket.fd(), Direction::Write);
    let deadline = socket.deadline();
    // If the server is on this machine the connection is in its backlog by now. That may be short, and
    // what does not fit the kernel tries again seconds later, all at once and again in vain. So if the
    // server is ours it takes this connection before the next client makes one.
    event_loop.look_ahead();
    loop {
        wait_ready(py, event_loop, socket, Direction::Write, deadline)?;
        let mut error: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option writes one int.
        let result = unsafe {
            libc::getsockopt(
                socket.fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut error).cast(),
                &mut size,
            )
        };
        if result < 0 {
            return Err(errors::os_error(py, super::errno()));
        }
        if error != 0 {
            if socket.timeout() < 0 {
                // Linux takes the next `connect` for a question about this one, and only then is
                // ready for another attempt. Who made a blocking call does not know of that.
                let _ = call_without_blocking(socket, sock, method, &args, None);
            }
            return Ok(error);
        }
        // Woken for no reason? Then it is not connected yet.
        let mut poll = libc::pollfd {
            fd: socket.fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one valid entry.
        if unsafe { libc::poll(&mut poll, 1, 0) } > 0 {
            return Ok(0);
        }
        event_loop
            .scheduler
            .exhausted(socket.fd(), Direction::Write);
    }
}
