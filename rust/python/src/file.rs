//! Reading and writing descriptors that are not sockets of ours: pipes, terminals, inherited ones.
//!
//! `O_NONBLOCK` belongs to the open file, which other processes may share, so it stays as it is. What
//! keeps a call from blocking is, by the kind of the file:
//!
//! - a pipe: `RWF_NOWAIT`, which is a flag of the one call. Linux has it for pipes since 6.4; before,
//!   and for FIFOs, `poll` first, and a write of at most as much as one that is ready surely takes.
//! - a socket: `MSG_DONTWAIT`.
//! - anything else: `poll` first; to a terminal, few bytes at a time. Another process that reads the
//!   same terminal can be quicker between the two calls: then this one blocks until there is more.
//!
//! Regular files, directories and disks do not wait: the original call deals with them.

pub mod buffered;
pub mod descriptors;
pub mod opening;
pub mod raw_io;

mod kind;

use std::os::fd::RawFd;

use aevent_runtime::clock::NEVER;
use aevent_runtime::reactor::Interest;
use pyo3::ffi;
use pyo3::prelude::*;

pub use kind::{Kind, kind_of};

use crate::errors::{self, Outcome, Raised};
use crate::poll::{Waited, wait_for};
use crate::run_loop;
use crate::task::state;

/// How much a pipe that is ready takes at once, whatever its state.
const PIPE_BUF: usize = 4096;
/// How much a terminal that is ready takes at once: its driver's smallest buffer.
const TERMINAL_CHUNK: usize = 256;

/// The outcome of a system call: a count, or an errno.
type Attempt = Result<usize, i32>;

fn attempt(result: isize) -> Attempt {
    if result >= 0 {
        return Ok(result as usize);
    }
    // SAFETY: the address of this thread's errno is always valid.
    Err(unsafe { *libc::__errno_location() })
}

/// Reads what there is, parking until there is something. `None`: the file is non-blocking and there
/// is nothing. `Err`: an `OSError`, or the wait was given up.
///
/// # Safety
/// The vectors' memory is valid for writing and stays where it is while the task is parked.
pub unsafe fn read(
    py: Python<'_>,
    fd: RawFd,
    kind: Kind,
    vectors: &[libc::iovec],
) -> Outcome<Option<usize>> {
    breathe(py)?;
    loop {
        // SAFETY: the caller's promise.
        match unsafe { read_now(py, fd, kind, vectors) } {
            Ok(count) => return Ok(Some(count)),
            Err(libc::EAGAIN) => {
                if is_non_blocking(fd) {
                    return Ok(None);
                }
                if wait_for(py, fd, Interest::READ, NEVER)? == Waited::Impossible {
                    // SAFETY: as above.
                    let result = detached(py, || unsafe { plain_read(fd, vectors) });
                    return result.map(Some).map_err(|errno| raise(py, errno));
                }
            }
            Err(libc::EINTR) => check_signals()?,
            Err(errno) => return Err(raise(py, errno)),
        }
    }
}

/// Writes everything, parking whenever there is no room. Like a blocking `write` that a signal
/// interrupts, it returns how much it has written if it was cancelled after the beginning; the
/// cancellation is found by the next call that waits. `None`: the file is non-blocking and full.
///
/// # Safety
/// The vectors' memory stays valid while the task is parked.
pub unsafe fn write(
    py: Python<'_>,
    fd: RawFd,
    kind: Kind,
    mut vectors: &mut [libc::iovec],
) -> Outcome<Option<usize>> {
    breathe(py)?;
    let total = size_of_vectors(vectors);
    let mut written = 0;
    loop {
        // SAFETY: the caller's promise.
        match unsafe { write_now(py, fd, kind, vectors) } {
            Ok(count) => {
                written += count;
                // A non-blocking file takes what it takes.
                if written >= total || is_non_blocking(fd) {
                    return Ok(Some(written));
                }
                vectors = advance(vectors, count);
            }
            Err(libc::EAGAIN) => {
                if is_non_blocking(fd) {
                    return Ok((written > 0).then_some(written));
                }
                match wait_for(py, fd, Interest::WRITE, NEVER) {
                    Ok(Waited::Impossible) => {
                        // SAFETY: as above.
                        let result = detached(py, || unsafe { plain_write(fd, vectors) });
                        let count = result.map_err(|errno| raise(py, errno))?;
                        return Ok(Some(written + count));
                    }
                    Ok(_) => {}
                    Err(raised) if written > 0 && is_cancellation(py) => {
                        drop(PyErr::from(raised));
                        return Ok(Some(written));
                    }
                    Err(raised) => return Err(raised),
                }
            }
            Err(libc::EINTR) => check_signals()?,
            Err(_) if written > 0 => return Ok(Some(written)),
            Err(errno) => return Err(raise(py, errno)),
        }
    }
}

/// One read that does not wait; EAGAIN if it would have to.
///
/// # Safety
/// As for [`read`].
#[inline]
unsafe fn read_now(py: Python<'_>, fd: RawFd, kind: Kind, vectors: &[libc::iovec]) -> Attempt {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::Pipe => match attempt(call_nowait(libc::SYS_preadv2, fd, vectors)) {
                Err(libc::EOPNOTSUPP | libc::ENOSYS) => {}
                result => return result,
            },
            Kind::Socket => {
                let mut message = message(vectors);
                return attempt(libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT));
            }
            _ => {}
        }
        if !is_non_blocking(fd) && !is_ready(fd, libc::POLLIN) {
            return Err(libc::EAGAIN);
        }
        detached(py, || plain_read(fd, vectors))
    }
}

/// One write that does not wait; EAGAIN if it would have to.
///
/// # Safety
/// As for [`write`].
#[inline]
unsafe fn write_now(py: Python<'_>, fd: RawFd, kind: Kind, vectors: &[libc::iovec]) -> Attempt {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::Pipe => match attempt(call_nowait(libc::SYS_pwritev2, fd, vectors)) {
                Err(libc::EOPNOTSUPP | libc::ENOSYS) => {}
                result => return result,
            },
            Kind::Socket => {
                return attempt(libc::sendmsg(fd, &message(vectors), libc::MSG_DONTWAIT));
            }
            _ => {}
        }
        if is_non_blocking(fd) {
            return plain_write(fd, vectors);
        }
        if !is_ready(fd, libc::POLLOUT) {
            return Err(libc::EAGAIN);
        }
        let limit = match kind {
            Kind::Pipe => PIPE_BUF,
            Kind::Terminal => TERMINAL_CHUNK,
            _ => usize::MAX,
        };
        if size_of_vectors(vectors) <= limit {
            return detached(py, || plain_write(fd, vectors));
        }
        // Small pieces are put together by nobody: each goes on its own, as far as it fits.
        let first = vectors
            .iter()
            .find(|vector| vector.iov_len > 0)
            .expect("more than the limit is not nothing");
        let length = first.iov_len.min(limit);
        detached(py, || attempt(libc::write(fd, first.iov_base, length)))
    }
}

/// Makes a system call with the interpreter released: one that ought not to block, but might.
fn detached(py: Python<'_>, call: impl FnOnce() -> Attempt) -> Attempt {
    struct Here<F>(F);
    // SAFETY: the call is made by this very thread; only the interpreter is left meanwhile.
    unsafe impl<F> Send for Here<F> {}
    impl<F: FnOnce() -> Attempt> Here<F> {
        fn make(self) -> Attempt {
            (self.0)()
        }
    }
    let call = Here(call);
    py.detach(move || call.make())
}

unsafe fn call_nowait(number: libc::c_long, fd: RawFd, vectors: &[libc::iovec]) -> isize {
    // An offset of -1, in two halves: the file's own position.
    // SAFETY: as many vectors as are said; their memory is the caller's promise.
    unsafe {
        libc::syscall(
            number,
            fd,
            vectors.as_ptr(),
            vectors.len(),
            -1 as libc::c_long,
            -1 as libc::c_long,
            libc::RWF_NOWAIT,
        ) as isize
    }
}

unsafe fn plain_read(fd: RawFd, vectors: &[libc::iovec]) -> Attempt {
    // SAFETY: as above.
    attempt(unsafe { libc::readv(fd, vectors.as_ptr(), vectors.len() as libc::c_int) })
}

unsafe fn plain_write(fd: RawFd, vectors: &[libc::iovec]) -> Attempt {
    // SAFETY: as above.
    attempt(unsafe { libc::writev(fd, vectors.as_ptr(), vectors.len() as libc::c_int) })
}

fn message(vectors: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: an all-zero header is a valid one: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_ptr().cast_mut();
    message.msg_iovlen = vectors.len() as _;
    message
}

fn size_of_vectors(vectors: &[libc::iovec]) -> usize {
    vectors.iter().map(|vector| vector.iov_len).sum()
}

/// What is left after the first `count` bytes.
fn advance(mut vectors: &mut [libc::iovec], mut count: usize) -> &mut [libc::iovec] {
    while let Some(first) = vectors.first_mut() {
        if count < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(count);
            first.iov_len -= count;
            break;
        }
        count -= first.iov_len;
        vectors = &mut vectors[1..];
    }
    vectors
}

/// Whether the open file is in non-blocking mode, by whoever's wish.
pub fn is_non_blocking(fd: RawFd) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

fn is_ready(fd: RawFd, events: libc::c_short) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one valid entry. A descriptor that is not open counts as ready: the call will say so.
    unsafe { libc::poll(&mut poll, 1, 0) != 0 }
}

/// Others may run if the task's time slice is over. Before the call: it may raise, and what a call
/// has read or written must not be lost.
#[inline(always)]
fn breathe(py: Python<'_>) -> Outcome<()> {
    match run_loop::existing() {
        Some(event_loop) => event_loop.breathe(py),
        None => Ok(()),
    }
}

fn check_signals() -> Outcome<()> {
    // SAFETY: attached: Python has called us.
    if unsafe { ffi::PyErr_CheckSignals() } != 0 {
        return Err(Raised);
    }
    Ok(())
}

/// Whether the exception that is set is that of a cancelled scope, which is raised again at the next
/// wait.
fn is_cancellation(py: Python<'_>) -> bool {
    let cancelled = py.get_type::<errors::Cancelled>();
    // SAFETY: attached, an exception is set, and the type is one.
    let matches = unsafe { ffi::PyErr_ExceptionMatches(cancelled.as_ptr()) != 0 };
    matches
        && run_loop::cooperating().is_some_and(|task| {
            state(task)
                .scope
                .as_ref()
                .is_some_and(|scope| scope.is_cancelled())
        })
}

#[cold]
fn raise(py: Python<'_>, errno: i32) -> Raised {
    errors::os_error(py, errno).into()
}
