//! Socket calls that park.
//!
//! Sockets stay in the mode Python gave them: a blocking one is not made non-blocking, because that
//! belongs to the open file, which a child process may share. `MSG_DONTWAIT` serves for sending and
//! receiving; calls without flags are made non-blocking for the length of the one system call.
//!
//! The descriptor and the timeout are read from the socket object itself. Its C struct is private to
//! CPython but has not changed since 3.5; [`check_layout`] compares it with what the public methods
//! say when the module is imported, and refuses to load otherwise.

use std::os::fd::RawFd;

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::descriptor;
use aevent_runtime::reactor::Direction;
use pyo3::exceptions::{PyBlockingIOError, PyImportError, PyOSError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors;
use crate::run_loop::{self, Loop};
use crate::task::TaskRef;
use crate::wait;

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
struct Socket(*mut SocketObject);

impl Socket {
    #[inline(always)]
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let kind = socket_type(object.py())?;
        // SAFETY: both are valid; a type check reads only.
        if unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), kind) } == 0 {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "a socket object is required",
            ));
        }
        Ok(Self(object.as_ptr().cast()))
    }

    #[inline(always)]
    fn fd(self) -> RawFd {
        // SAFETY: the object is alive, since the caller of ours holds it, and has this layout.
        unsafe { (*self.0).fd }
    }

    #[inline(always)]
    fn timeout(self) -> i64 {
        // SAFETY: as above.
        unsafe { (*self.0).timeout }
    }

    fn set_timeout(self, timeout: i64) {
        // SAFETY: as above; attached, so nobody reads it at the same time.
        unsafe { (*self.0).timeout = timeout }
    }

    #[inline(always)]
    fn is_stream(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).kind == libc::SOCK_STREAM }
    }

    /// The deadline of a call that begins to wait now.
    fn deadline(self) -> u64 {
        match self.timeout() {
            timeout if timeout < 0 => NEVER,
            timeout => clock::now().saturating_add(timeout as u64),
        }
    }
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

/// The task and the loop that a cooperative call runs in.
#[inline(always)]
fn here() -> PyResult<(&'static Loop, &'static TaskRef)> {
    match (run_loop::existing(), run_loop::cooperating()) {
        (Some(event_loop), Some(task)) => Ok((event_loop, task)),
        _ => Err(errors::no_task("a socket call")),
    }
}

/// Waits until the socket may be ready. `Err`: timed out, closed meanwhile, cancelled.
#[inline(never)]
fn wait_ready(
    py: Python<'_>,
    event_loop: &Loop,
    task: TaskRef,
    socket: Socket,
    direction: Direction,
    deadline: u64,
) -> PyResult<()> {
    let fd = socket.fd();
    if fd < 0 {
        return Err(errors::os_error(py, libc::EBADF));
    }
    let generation = descriptor::generation(fd);
    let scheduler = &event_loop.scheduler;
    match scheduler.wait_ready(fd, direction, task.clone()) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) => return Err(errors::from_io(py, &error)),
    }
    // One unpark is enough to try the call again; it says `EAGAIN` if there was another reason.
    let mut parked = false;
    let result = wait::park_until(py, event_loop, &task, deadline, false, |_| {
        if std::mem::replace(&mut parked, true) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    });
    if descriptor::generation(fd) != generation || socket.fd() != fd {
        if socket.fd() == fd {
            // Another socket object took a number that is still this one's too.
            return result.map(|_| ());
        }
        return Err(errors::os_error(py, libc::EBADF));
    }
    scheduler.forget_ready(fd, direction, &task);
    match result {
        Ok(true) if deadline != NEVER && clock::now() >= deadline => {
            // Woken by the timer, perhaps: the last try decides.
            Ok(())
        }
        Ok(true) => Ok(()),
        Ok(false) => Err(errors::timed_out()),
        Err(error) => Err(error),
    }
}

/// Tries `call` until it says something else than `EAGAIN`.
#[inline(always)]
fn until_done(
    py: Python<'_>,
    socket: Socket,
    direction: Direction,
    deadline: &mut Option<u64>,
    mut call: impl FnMut(RawFd) -> isize,
) -> PyResult<usize> {
    let (event_loop, task) = here()?;
    let mut tried_late = false;
    loop {
        let fd = socket.fd();
        if fd < 0 {
            return Err(errors::os_error(py, libc::EBADF));
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
                        return Err(PyErr::fetch(py));
                    }
                    continue;
                }
                error => return Err(errors::os_error(py, error)),
            }
        }
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        if until != NEVER && clock::now() >= until {
            if tried_late {
                return Err(errors::timed_out());
            }
            tried_late = true;
        }
        wait_ready(py, event_loop, task.clone(), socket, direction, until)?;
    }
}

#[inline(always)]
fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// After a call that did not wait: others may run.
#[inline(always)]
fn breathe(py: Python<'_>) -> PyResult<()> {
    match run_loop::existing() {
        Some(event_loop) => event_loop.breathe(py),
        None => Ok(()),
    }
}

fn no_wait(socket: Socket) -> bool {
    socket.timeout() == 0
}

/// `socket.recv` in a task.
#[pyfunction]
#[pyo3(signature = (sock, bufsize, flags=0, /))]
pub fn socket_recv(
    py: Python<'_>,
    sock: &Bound<'_, PyAny>,
    bufsize: isize,
    flags: i32,
) -> PyResult<Py<PyAny>> {
    let socket = Socket::of(sock)?;
    if bufsize < 0 {
        return Err(PyValueError::new_err("negative buffersize in recv"));
    }
    // SAFETY: attached; a new bytes object, or null with an exception.
    let mut bytes = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), bufsize) };
    if bytes.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a bytes object of that size, which nobody else has seen.
    let buffer = unsafe { ffi::PyBytes_AsString(bytes) };
    match receive(py, socket, buffer.cast(), bufsize as usize, flags) {
        Ok(count) => {
            // SAFETY: the object has one reference; the call replaces or frees it.
            if count != bufsize as usize
                && unsafe { _PyBytes_Resize(&mut bytes, count as isize) } < 0
            {
                return Err(PyErr::fetch(py));
            }
            // SAFETY: an owned reference.
            Ok(unsafe { Bound::from_owned_ptr(py, bytes) }.unbind())
        }
        Err(error) => {
            crate::task::release(bytes);
            Err(error)
        }
    }
}

unsafe extern "C" {
    /// Documented in CPython's API, but not declared by pyo3.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: isize) -> i32;
}

fn receive(
    py: Python<'_>,
    socket: Socket,
    buffer: *mut std::ffi::c_void,
    size: usize,
    flags: i32,
) -> PyResult<usize> {
    if no_wait(socket) {
        // Non-blocking by the user's wish: no parking.
        // SAFETY: the buffer is valid for `size` bytes, which the callers own.
        let result = unsafe { libc::recv(socket.fd(), buffer, size, flags | libc::MSG_DONTWAIT) };
        if result < 0 {
            return Err(errors::os_error(py, errno()));
        }
        return Ok(result as usize);
    }
    let mut deadline = None;
    // SAFETY: as above; the buffer is on the heap, so it stays where it is while the task parks.
    let count = until_done(py, socket, Direction::Read, &mut deadline, |fd| unsafe {
        libc::recv(fd, buffer, size, flags | libc::MSG_DONTWAIT)
    })?;
    if flags == 0
        && count < size
        && count > 0
        && socket.is_stream()
        && let Some(event_loop) = run_loop::existing()
    {
        event_loop.scheduler.read_short(socket.fd());
    }
    if deadline.is_none() {
        breathe(py)?;
    }
    Ok(count)
}

/// `socket.recv_into` in a task.
#[pyfunction]
#[pyo3(signature = (sock, buffer, nbytes=0, flags=0))]
pub fn socket_recv_into(
    py: Python<'_>,
    sock: &Bound<'_, PyAny>,
    buffer: &Bound<'_, PyAny>,
    nbytes: isize,
    flags: i32,
) -> PyResult<usize> {
    let socket = Socket::of(sock)?;
    let mut view = View::get(buffer, ffi::PyBUF_WRITABLE)?;
    if nbytes < 0 {
        return Err(PyValueError::new_err("negative buffersize in recv_into"));
    }
    let size = if nbytes == 0 {
        view.len()
    } else {
        nbytes as usize
    };
    if size > view.len() {
        return Err(PyValueError::new_err(
            "buffer too small for requested bytes",
        ));
    }
    receive(py, socket, view.pointer(), size, flags)
}

/// A buffer view, released when dropped.
struct View(ffi::Py_buffer);

impl View {
    fn get(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Box<Self>> {
        // Boxed: some exporters remember the view's address, and the stack may be copied away.
        let mut view = Box::new(Self(ffi::Py_buffer::new()));
        // SAFETY: the view is valid; on success it is released by `drop`.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view.0, flags) } < 0 {
            let error = PyErr::fetch(object.py());
            std::mem::forget(*view);
            return Err(error);
        }
        Ok(view)
    }

    fn len(&self) -> usize {
        self.0.len as usize
    }

    fn pointer(&mut self) -> *mut std::ffi::c_void {
        self.0.buf
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: it was got, and is released once; attached, like every call of ours.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

fn transmit(
    py: Python<'_>,
    socket: Socket,
    data: *const u8,
    size: usize,
    flags: i32,
    deadline: &mut Option<u64>,
) -> PyResult<usize> {
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
    let socket = Socket::of(sock)?;
    let mut view = View::get(data, ffi::PyBUF_SIMPLE)?;
    if no_wait(socket) {
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the view keeps the data in place.
        let result = unsafe { libc::send(socket.fd(), view.pointer(), view.len(), flags) };
        if result < 0 {
            return Err(errors::os_error(py, errno()));
        }
        return Ok(result as usize);
    }
    let mut deadline = None;
    let size = view.len();
    let count = transmit(
        py,
        socket,
        view.pointer().cast(),
        size,
        flags,
        &mut deadline,
    )?;
    if deadline.is_none() {
        breathe(py)?;
    }
    Ok(count)
}

/// `socket.sendall` in a task. The timeout is for the whole.
#[pyfunction]
#[pyo3(signature = (sock, data, flags=0, /))]
pub fn socket_sendall(
    py: Python<'_>,
    sock: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    flags: i32,
) -> PyResult<()> {
    let socket = Socket::of(sock)?;
    let mut view = View::get(data, ffi::PyBUF_SIMPLE)?;
    let mut sent = 0;
    let mut deadline = None;
    let whole = socket.timeout() > 0;
    if whole {
        deadline = Some(socket.deadline());
    }
    let mut waited = false;
    loop {
        // SAFETY: `sent` is at most the view's length.
        let data = unsafe { view.pointer().cast::<u8>().add(sent) };
        let size = view.len() - sent;
        if no_wait(socket) {
            let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the view keeps the data in place.
            let result = unsafe { libc::send(socket.fd(), data.cast(), size, flags) };
            if result < 0 {
                return Err(errors::os_error(py, errno()));
            }
            sent += result as usize;
        } else {
            let count = transmit(py, socket, data, size, flags, &mut deadline)?;
            waited |= !whole && deadline.is_some();
            sent += count;
        }
        if sent >= view.len() {
            break;
        }
        if let Some(until) = deadline
            && until != NEVER
            && clock::now() >= until
        {
            return Err(errors::timed_out());
        }
    }
    if !waited {
        breathe(py)?;
    }
    Ok(())
}

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
    let timeout = socket.timeout();
    let fd = socket.fd();
    // A socket with a timeout is in non-blocking mode already; Python did that.
    let blocking = timeout < 0;
    if blocking {
        set_nonblocking(fd, true);
    }
    socket.set_timeout(0);
    let result = match args.len() {
        0 => method.call((sock,), kwargs),
        1 => method.call((sock, args.get_item(0)?), kwargs),
        _ => {
            let mut all: Vec<Bound<'py, PyAny>> = vec![sock.clone()];
            all.extend(args.iter());
            method.call(PyTuple::new(py, all)?, kwargs)
        }
    };
    // It may have been closed by another thread during the call.
    if socket.fd() == fd {
        socket.set_timeout(timeout);
        if blocking {
            set_nonblocking(fd, false);
        }
    }
    result
}

fn set_nonblocking(fd: RawFd, value: bool) {
    let mut value = libc::c_int::from(value);
    // SAFETY: `FIONBIO` reads one int.
    unsafe { libc::ioctl(fd, libc::FIONBIO, &mut value) };
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
    if no_wait(socket) || socket.fd() < 0 {
        let mut all: Vec<Bound<'py, PyAny>> = vec![sock.clone()];
        all.extend(args.iter());
        return method.call(PyTuple::new(py, all)?, kwargs);
    }
    let direction = if write {
        Direction::Write
    } else {
        Direction::Read
    };
    let (event_loop, task) = here()?;
    let mut deadline = None;
    loop {
        let fd = socket.fd();
        if fd < 0 {
            return Err(errors::os_error(py, libc::EBADF));
        }
        if event_loop.scheduler.may_try(fd, direction) {
            match call_without_blocking(socket, sock, method, args, kwargs) {
                Ok(value) => {
                    if deadline.is_none() {
                        breathe(py)?;
                    }
                    return Ok(value);
                }
                Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => {
                    event_loop.scheduler.exhausted(fd, direction);
                }
                Err(error) => return Err(error),
            }
        }
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        wait_ready(py, event_loop, task.clone(), socket, direction, until)?;
    }
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
    let args = PyTuple::new(py, [address])?;
    let result = call_without_blocking(socket, sock, method, &args, None);
    let Err(error) = result else { return Ok(0) };
    if !error.is_instance_of::<PyOSError>(py) {
        return Err(error);
    }
    let errno = error.value(py).getattr("errno")?;
    if errno.is_none() {
        return Err(error);
    }
    let number: i32 = errno.extract()?;
    if no_wait(socket) || !matches!(number, libc::EINPROGRESS | libc::EAGAIN | libc::EINTR) {
        // Also a name look-up's error, which has a number of its own.
        return Err(error);
    }
    if number == libc::EAGAIN {
        // A UNIX socket whose listener's backlog is full: there is no event for that.
        return Ok(libc::EAGAIN);
    }
    let (event_loop, task) = here()?;
    event_loop
        .scheduler
        .exhausted(socket.fd(), Direction::Write);
    let deadline = socket.deadline();
    loop {
        wait_ready(
            py,
            event_loop,
            task.clone(),
            socket,
            Direction::Write,
            deadline,
        )?;
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
            return Err(errors::os_error(py, self::errno()));
        }
        if error != 0 {
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
