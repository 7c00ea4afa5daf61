//! TLS calls that park.
//!
//! OpenSSL reads and writes the descriptor itself, with no flags that we could add, so its object is
//! called with the socket non-blocking for the length of the call. If it wants to read or to write,
//! the task parks and the call is made again. Nothing is held meanwhile, and OpenSSL's object is
//! never entered by two tasks at once: no task switches inside of it.
//!
//! The error of a timeout is the original's own: once the time is over, the call is made with a
//! timeout of a nanosecond.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aevent_runtime::fork;
use aevent_runtime::reactor::Direction;
use aevent_runtime::wait_queue;
use pyo3::exceptions::PyTimeoutError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::errors::{self, Outcome, Raised};
use crate::raw::{self, Definition};
use crate::run_loop::Loop;
use crate::socket::{self, Socket};
use crate::stack::Object;
use crate::task::release;
use crate::wait;

/// `SSLWantReadError` and `SSLWantWriteError`.
struct Wants {
    read: Py<PyAny>,
    write: Py<PyAny>,
}

fn wants(py: Python<'_>) -> PyResult<&'static Wants> {
    static WANTS: PyOnceLock<Wants> = PyOnceLock::new();
    WANTS.get_or_try_init(py, || {
        let module = py.import("_ssl")?;
        Ok(Wants {
            read: module.getattr("SSLWantReadError")?.unbind(),
            write: module.getattr("SSLWantWriteError")?.unbind(),
        })
    })
}

/// Which way OpenSSL's object has to wait, if that is what the exception that is set says; it is
/// cleared then.
fn take_wanted(wants: &Wants) -> Option<Direction> {
    let direction = [
        (&wants.read, Direction::Read),
        (&wants.write, Direction::Write),
    ]
    .into_iter()
    // SAFETY: attached; the exception types are alive.
    .find(|(kind, _)| unsafe { ffi::PyErr_ExceptionMatches(kind.as_ptr()) } != 0);
    if direction.is_some() {
        // SAFETY: attached.
        unsafe { ffi::PyErr_Clear() };
    }
    direction.map(|(_, direction)| direction)
}

/// Whether the kernel has nothing to read; says so to the reactor.
fn has_run_dry(event_loop: &Loop, socket: Socket) -> bool {
    let fd = socket.fd();
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: room for one byte.
    let result = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    let dry = result < 0 && socket::errno() == libc::EAGAIN;
    if dry {
        event_loop.scheduler.exhausted(fd, Direction::Read);
    }
    dry
}

/// Makes `call` until OpenSSL's object neither wants to read nor to write. `knows_empty` tells
/// whether the first try would only say that there is nothing to read; `on_wait` is called before
/// the first wait.
#[inline(always)]
fn until_done(
    py: Python<'_>,
    event_loop: &Loop,
    socket: Socket,
    deadline: &mut Option<u64>,
    mut knows_empty: bool,
    mut on_wait: impl FnMut(),
    call: impl Fn() -> Object,
) -> Outcome<Object> {
    // Now: later there is an exception set, with which nothing can be imported.
    let wants = wants(py)?;
    loop {
        let direction = if std::mem::take(&mut knows_empty) {
            Direction::Read
        } else {
            let fd = socket.fd();
            if fd < 0 {
                return Err(errors::os_error(py, libc::EBADF).into());
            }
            let result = socket.with_timeout(0, &call);
            if !result.is_null() {
                return Ok(result);
            }
            match take_wanted(wants) {
                None => return Err(Raised),
                Some(Direction::Read) => {
                    if !has_run_dry(event_loop, socket) {
                        // More has come since, or OpenSSL did not look.
                        continue;
                    }
                    Direction::Read
                }
                Some(Direction::Write) => {
                    event_loop.scheduler.exhausted(fd, Direction::Write);
                    Direction::Write
                }
            }
        };
        on_wait();
        let until = *deadline.get_or_insert_with(|| socket.deadline());
        if !socket::wait_in_time(py, event_loop, socket, direction, until)? {
            let result = socket.with_timeout(1, &call);
            if !result.is_null() {
                return Ok(result);
            }
            if take_wanted(wants).is_none() {
                return Err(Raised);
            }
            // A clock so coarse that not even a nanosecond was over. Once more.
        }
    }
}

/// How many bytes OpenSSL's object has decrypted and not handed out.
#[inline(always)]
fn pending(py: Python<'_>, tls: Object) -> Outcome<isize> {
    let name = pyo3::intern!(py, "pending").as_ptr();
    // SAFETY: attached; both objects are alive during the call.
    unsafe {
        let number = ffi::PyObject_VectorcallMethod(name, &tls, 1, std::ptr::null_mut());
        if number.is_null() {
            return Err(Raised);
        }
        let count = ffi::PyLong_AsSsize_t(number);
        release(number);
        if count == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        Ok(count)
    }
}

/// `method(*rest)` of OpenSSL's object, `args` being the object and the rest.
#[inline(always)]
fn call_method(name: Object, args: &[Object]) -> Object {
    // SAFETY: attached; the arguments are the caller's, who keeps them alive.
    unsafe { ffi::PyObject_VectorcallMethod(name, args.as_ptr(), args.len(), std::ptr::null_mut()) }
}

/// A new reference, or null with an exception set.
fn outcome(result: Object) -> Outcome<Object> {
    if result.is_null() {
        Err(Raised)
    } else {
        Ok(result)
    }
}

/// Whether the user wants no waiting, or the call will fail: then the original is all there is.
#[inline(always)]
fn is_plain(socket: Socket) -> bool {
    socket.timeout() == 0 || socket.fd() < 0
}

/// The arguments of a function that Python calls, and the socket, which is the first of them.
///
/// # Safety
/// As for a function that Python calls with `nargs` positional arguments, at least two.
unsafe fn arguments<'a>(
    args: *mut Object,
    nargs: isize,
) -> Outcome<(Python<'a>, Socket, &'a [Object])> {
    // SAFETY: the caller's promise.
    let (py, args) = unsafe {
        (
            Python::assume_attached(),
            std::slice::from_raw_parts(args, nargs as usize),
        )
    };
    debug_assert!(args.len() >= 2);
    Ok((py, Socket::of_raw(py, args[0])?, &args[1..]))
}

/// `sslobj.read(…)` in a task. Arguments: the socket, the object, what `read` is given.
pub static READ: Definition = Definition::positional(c"ssl_read", read);

unsafe extern "C" fn read(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: Python calls us.
    raw::give(
        unsafe { arguments(args, nargs) }.and_then(|(py, socket, args)| {
            let name = pyo3::intern!(py, "read").as_ptr();
            if is_plain(socket) {
                let result = call_method(name, args);
                return outcome(result);
            }
            socket::breathe(py)?;
            let event_loop = socket::here()?;
            let dry = !event_loop.scheduler.may_try(socket.fd(), Direction::Read)
                && pending(py, args[0])? == 0;
            let mut deadline = None;
            let result = until_done(
                py,
                event_loop,
                socket,
                &mut deadline,
                dry,
                || {},
                || call_method(name, args),
            )?;
            if let Err(raised) = note_what_is_left(py, event_loop, socket, args[0], result) {
                release(result);
                return Err(raised);
            }
            Ok(result)
        }),
    )
}

/// So much data is in a record that is full. There is more to come then.
const LARGEST_RECORD: isize = 16 * 1024;

/// After a read that gave data: most of the time that was all, and the next one has to wait. To ask
/// the kernel costs less than to hear it from OpenSSL, as an exception.
///
/// Nothing else may say that a socket has run dry, unless OpenSSL wants to read: at the end of the
/// stream, say, its object does not look at the socket any more.
#[inline(always)]
fn note_what_is_left(
    py: Python<'_>,
    event_loop: &Loop,
    socket: Socket,
    tls: Object,
    result: Object,
) -> Outcome<()> {
    // SAFETY: attached; `result` is ours.
    let count = unsafe {
        if ffi::PyBytes_CheckExact(result) != 0 {
            ffi::PyBytes_Size(result)
        } else {
            ffi::PyLong_AsSsize_t(result)
        }
    };
    if (1..LARGEST_RECORD).contains(&count) && socket.fd() >= 0 && pending(py, tls)? == 0 {
        has_run_dry(event_loop, socket);
    }
    Ok(())
}

/// `method()`, a bound method of OpenSSL's object, in a task. Arguments: the socket, the method.
pub static CALL: Definition = Definition::positional(c"ssl_call", call);

unsafe extern "C" fn call(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: Python calls us.
    raw::give(
        unsafe { arguments(args, nargs) }.and_then(|(py, socket, args)| {
            // SAFETY: attached; the method is the caller's.
            let call = || unsafe { ffi::PyObject_CallNoArgs(args[0]) };
            if is_plain(socket) {
                let result = call();
                return outcome(result);
            }
            socket::breathe(py)?;
            let mut deadline = None;
            until_done(
                py,
                socket::here()?,
                socket,
                &mut deadline,
                false,
                || {},
                call,
            )
        }),
    )
}

/// `sslobj.write(data)` in a task. Arguments: the socket, the object, the data.
///
/// OpenSSL wants a write that had to wait repeated before another begins, so the others that want
/// to write on the connection wait until that is done.
pub static WRITE: Definition = Definition::positional(c"ssl_write", write);

unsafe extern "C" fn write(_module: Object, args: *mut Object, nargs: isize) -> Object {
    // SAFETY: Python calls us.
    raw::give(
        unsafe { arguments(args, nargs) }.and_then(|(py, socket, args)| {
            let name = pyo3::intern!(py, "write").as_ptr();
            let call = || call_method(name, args);
            if is_plain(socket) {
                let result = call();
                return outcome(result);
            }
            socket::breathe(py)?;
            let event_loop = socket::here()?;
            let connection = args[0] as usize;
            let mut deadline = None;
            let mut turn = wait_for_turn(py, event_loop, connection, socket, &mut deadline)?;
            let result = until_done(
                py,
                event_loop,
                socket,
                &mut deadline,
                false,
                || {
                    turn.get_or_insert_with(|| begin_turn(connection));
                },
                call,
            );
            if let Some(turn) = turn {
                end_turn(connection, &turn);
            }
            result
        }),
    )
}

/// The connections on which a write is to be repeated, by the address of OpenSSL's object, which the
/// writer keeps alive.
static TURNS: Mutex<Vec<Turn>> = Mutex::new(Vec::new());
/// How many those are: none, most of the time.
static TURNS_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A connection on which a write has to be repeated. Who holds the lock may write.
struct Turn {
    connection: usize,
    process: u32,
    lock: wait_queue::Lock,
}

fn turn_of(connection: usize) -> Option<wait_queue::Lock> {
    if TURNS_COUNT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    // In the child of a fork, who wrote in the parent does not go on.
    let process = fork::generation();
    lock_turns()
        .iter()
        .find(|turn| turn.connection == connection && turn.process == process)
        .map(|turn| turn.lock.clone())
}

fn lock_turns() -> MutexGuard<'static, Vec<Turn>> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no other's write has to be repeated. The lock, if there was one to be waited for.
fn wait_for_turn(
    py: Python<'_>,
    event_loop: &Loop,
    connection: usize,
    socket: Socket,
    deadline: &mut Option<u64>,
) -> Outcome<Option<wait_queue::Lock>> {
    let Some(lock) = turn_of(connection) else {
        return Ok(None);
    };
    let until = *deadline.get_or_insert_with(|| socket.deadline());
    let task = socket::me()?;
    let mut acquire = lock.lock();
    let result = wait::park_until(py, event_loop, &task, until, false, |cx| acquire.poll(cx));
    let is_ours = acquire.cancel();
    match result {
        Ok(_) if is_ours => Ok(Some(lock)),
        Ok(_) => Err(PyTimeoutError::new_err("The write operation timed out").into()),
        Err(raised) => {
            if is_ours {
                end_turn(connection, &lock);
            }
            Err(raised)
        }
    }
}

/// The first wait of a write: others have to wait until it is done.
fn begin_turn(connection: usize) -> wait_queue::Lock {
    let lock = wait_queue::Lock::new();
    lock.try_lock();
    let mut turns = lock_turns();
    turns.push(Turn {
        connection,
        process: fork::generation(),
        lock: lock.clone(),
    });
    TURNS_COUNT.store(turns.len(), Ordering::Relaxed);
    lock
}

/// A write is done, or given up: it is the next one's turn.
fn end_turn(connection: usize, lock: &wait_queue::Lock) {
    if lock.waiters() == 0 {
        let process = fork::generation();
        let mut turns = lock_turns();
        turns.retain(|turn| turn.connection != connection || turn.process != process);
        TURNS_COUNT.store(turns.len(), Ordering::Relaxed);
    }
    lock.unlock();
}
