//! An OS thread waits, with the interpreter released.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use aevent_runtime::clock::{self, NEVER};
use pyo3::ffi;
use pyo3::prelude::*;

/// Blocks an OS thread that is in no task. Wakes for signals, as CPython's lock does.
struct ThreadParker {
    word: AtomicU32,
}

impl ThreadParker {
    /// Sleeps until it is woken, a signal arrives or `timeout` nanoseconds are over.
    fn park(&self, timeout: Option<u64>) {
        let spec = timeout.map(|nanos| libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as _,
            tv_nsec: (nanos % 1_000_000_000) as _,
        });
        let pointer = spec
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref::<libc::timespec>);
        // SAFETY: the word and the timeout are valid during the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                0u32,
                pointer,
            )
        };
    }
}

impl Wake for ThreadParker {
    fn wake(self: Arc<Self>) {
        self.word.store(1, Ordering::Release);
        // SAFETY: the word is valid as long as `self`.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1u32,
            )
        };
    }
}

/// Blocks the OS thread, with the interpreter released, until `poll` is ready (true) or `deadline`
/// (false). `Err`: a signal handler raised.
pub fn block_until(
    py: Python<'_>,
    deadline: u64,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> PyResult<bool> {
    let parker = Arc::new(ThreadParker {
        word: AtomicU32::new(0),
    });
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    // A thread that blocks does so in real time, whatever time its tasks have.
    let deadline = match deadline {
        NEVER => NEVER,
        _ => clock::real().saturating_add(deadline.saturating_sub(clock::now())),
    };
    loop {
        if poll(&mut cx).is_ready() {
            return Ok(true);
        }
        let timeout = if deadline == NEVER {
            None
        } else {
            let now = clock::real();
            if now >= deadline {
                return Ok(false);
            }
            Some(deadline - now)
        };
        py.detach(|| parker.park(timeout));
        parker.word.store(0, Ordering::Release);
        // SAFETY: attached. Does nothing outside the main thread.
        if unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Err(PyErr::fetch(py));
        }
    }
}
