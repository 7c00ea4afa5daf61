//! Socket calls that park.
//!
//! Sockets stay in the mode Python gave them: a blocking one is not made non-blocking, because that
//! belongs to the open file, which a child process may share. `MSG_DONTWAIT` serves for sending and
//! receiving; calls without flags are made non-blocking for the length of the one system call.
//!
//! The descriptor and the timeout are read from the socket object itself. Its C struct is private to
//! CPython but has not changed since 3.5; [`check_layout`] compares it with what the public methods
//! say when the module is imported, and refuses to load otherwise.

use std::cell::UnsafeCell;
use std::os::fd::RawFd;
use std::task::Poll;

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::descriptor;
use aevent_runtime::reactor::Direction;
use pyo3::exceptions::{PyBlockingIOError, PyImportError, PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{self, Outcome, Raised};
use crate::raw::{self, Definition};
use crate::run_loop::{self, Loop};
use crate::stack::Object;
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
        Ok(Self::of_raw(object.py(), object.as_ptr())?)
    }

    #[inline(always)]
    fn of_raw(py: Python<'_>, object: Object) -> Outcome<Self> {
        let kind = socket_type(py)?;
        // SAFETY: both are valid; a type check reads only.
        if unsafe { ffi::PyObject_TypeCheck(object, kind) } == 0 {
            return Err(PyTypeError::new_err("a socket object is required").into());
        }
        Ok(Self(object.cast()))
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

/// The loop that a cooperative call runs in.
#[inline(always)]
fn here() -> PyResult<&'static Loop> {
    match run_loop::existing() {
        Some(event_loop) if run_loop::cooperates() => Ok(event_loop),
        _ => Err(errors::no_task("a socket call")),
    }
}

/// The running task. A reference of its own: nothing of the loop is borrowed while others run.
#[inline(always)]
fn me() -> PyResult<TaskRef> {
    run_loop::cooperating()
        .cloned()
        .ok_or_else(|| errors::no_task("a socket call"))
}

/// Waits until the socket may be ready. `Err`: timed out, closed meanwhile, cancelled.
#[inline(never)]
fn wait_ready(
    py: Python<'_>,
    event_loop: &Loop,
    socket: Socket,
    direction: Direction,
    deadline: u64,
) -> Outcome<()> {
    let task = me()?;
    let fd = socket.fd();
    if fd < 0 {
        return Err(errors::os_error(py, libc::EBADF).into());
    }
    let generation = descriptor::generation(fd);
    match event_loop.scheduler.wait_ready(fd, direction, task.clone()) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
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
            return result.map(|_| ());
        }
        if result.is_err() {
            // Closed and cancelled at once: the cancellation is what counts.
            return Err(Raised);
        }
        return Err(errors::os_error(py, libc::EBADF).into());
    }
    event_loop.scheduler.forget_ready(fd, direction, &task);
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(errors::timed_out().into()),
        Err(raised) => Err(raised),
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

#[inline(always)]
fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Before a call: others may run if the task's time slice is over. Before, since it may raise, and
/// what a call has received or sent must not be lost.
#[inline(always)]
fn breathe(py: Python<'_>) -> Outcome<()> {
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

/// `socket.recv` in a task.
pub static RECV: Definition = Definition::positional(c"socket_recv", recv);

/// The largest read that goes through the thread's scratch buffer.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Where data arrives before its size is known. Nothing is kept in it across a switch. It stays
    /// in the cache; a buffer of the asked-for size, held by each parked task, would not.
    static BUFFER: UnsafeCell<Vec<u8>> = const { UnsafeCell::new(Vec::new()) };
}

/// This thread's scratch buffer of `SCRATCH` bytes.
#[inline(always)]
fn scratch() -> *mut u8 {
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
        if size <= SCRATCH {
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

/// A new bytes object. Null with an exception set if there is no memory.
fn bytes(data: *const u8, size: usize) -> Outcome<Object> {
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
    let result = receive(py, socket, size, flags, |fd, flags| {
        // SAFETY: the object has room for `size` bytes.
        unsafe { libc::recv(fd, buffer, size, flags) }
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
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: isize) -> i32;
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

#[inline(always)]
fn receive_into(
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
    receive(py, socket, size, flags, |fd, flags| {
        // SAFETY: the view keeps the buffer in place, and `size` is at most its length.
        unsafe { libc::recv(fd, pointer, size, flags) }
    })
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

    /// Refuses what cannot be written to in the words of CPython's argument parser.
    fn get_writable(object: &Bound<'_, PyAny>) -> PyResult<Box<Self>> {
        Self::get(object, ffi::PyBUF_WRITABLE).map_err(|_| {
            let kind = object.get_type();
            PyTypeError::new_err(format!(
                "recv_into() argument 1 must be read-write bytes-like object, not {}",
                kind.name()
                    .map_or_else(|_| "object".into(), |name| name.to_string())
            ))
        })
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
    let socket = Socket::of(sock)?;
    let mut view = View::get(data, ffi::PyBUF_SIMPLE)?;
    if no_wait(socket, flags) {
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the view keeps the data in place.
        let result = unsafe { libc::send(socket.fd(), view.pointer(), view.len(), flags) };
        if result < 0 {
            return Err(errors::os_error(py, errno()));
        }
        return Ok(result as usize);
    }
    breathe(py)?;
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
    Ok(count)
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

fn send_all(py: Python<'_>, args: &[Object]) -> Outcome<()> {
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
            return Err(errors::os_error(py, self::errno()));
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
