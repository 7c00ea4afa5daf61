//! Waiting for locks on files.
//!
//! There is no event for a file lock that becomes free. A thread that waits for one in the system cannot be
//! called back: it might get the lock after the task has given up, for a descriptor that is somebody else's by
//! then, and until then it is missing in the pool. So it is tried without waiting, and tried again after a
//! while that grows, by a future that the loop polls. Those of a loop who want the same lock in the same way get
//! it in the order of their asking.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

use aevent_runtime::clock;
use aevent_runtime::scheduler::Until;
use aevent_runtime::wait_queue::Lock;
use pyo3::prelude::*;

use crate::bridge;
use crate::errors;
use crate::run_loop;
use crate::task::Payload;
use crate::wait;

const FIRST_PAUSE: u64 = 500_000;
const LONGEST_PAUSE: u64 = 20_000_000;

/// What is asked of the system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    /// `flock()`, with LOCK_SH or LOCK_EX.
    Whole(libc::c_int),
    /// `fcntl()`, with F_SETLK or F_OFD_SETLK, and a `struct flock`.
    Part {
        command: libc::c_int,
        kind: libc::c_short,
        start: libc::off_t,
        length: libc::off_t,
    },
}

impl Request {
    /// Makes it without waiting, or its opposite.
    fn make(&self, fd: RawFd, unlock: bool) -> io::Result<()> {
        // SAFETY: `flock` takes numbers only; `fcntl` reads, and may write, the structure.
        let result = unsafe {
            match *self {
                Request::Whole(_) if unlock => libc::flock(fd, libc::LOCK_UN),
                Request::Whole(operation) => libc::flock(fd, operation | libc::LOCK_NB),
                Request::Part {
                    command,
                    kind,
                    start,
                    length,
                } => {
                    let mut lock: libc::flock = mem::zeroed();
                    lock.l_type = if unlock { libc::F_UNLCK as _ } else { kind };
                    lock.l_whence = libc::SEEK_SET as _;
                    lock.l_start = start;
                    lock.l_len = length;
                    libc::fcntl(fd, command, &raw mut lock)
                }
            }
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Which file a descriptor stands for.
type Identity = (libc::dev_t, libc::ino_t);

fn status(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: the structure is filled in, or not looked at.
    unsafe {
        let mut status: libc::stat = mem::zeroed();
        if libc::fstat(fd, &mut status) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(status)
    }
}

/// What somebody wants to lock, and how.
#[derive(Clone, Copy)]
struct Wanted {
    fd: RawFd,
    file: Identity,
    request: Request,
}

impl Wanted {
    /// True if the lock is ours now, false if it is somebody else's. `EBADF`: the descriptor was closed, and
    /// perhaps its number stands for another file.
    fn attempt(&self) -> io::Result<bool> {
        self.is_the_same()?;
        match self.request.make(self.fd, false) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(false),
                _ => Err(error),
            },
        }
    }

    fn is_the_same(&self) -> io::Result<()> {
        let status = status(self.fd)?;
        if (status.st_dev, status.st_ino) == self.file {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// A lock that was got; given back if nobody takes it.
struct Held(Option<Wanted>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(wanted) = self.0.take()
            && wanted.is_the_same().is_ok()
        {
            // What can be locked can be unlocked.
            let _ = wanted.request.make(wanted.fd, true);
        }
    }
}

/// Who wants the same lock in the same way: the first tries, the others queue for this.
#[derive(Default)]
pub struct Turns(RefCell<HashMap<(Identity, Request), Weak<Lock>>>);

impl Turns {
    fn of(&self, wanted: &Wanted) -> Arc<Lock> {
        let mut turns = self.0.borrow_mut();
        let key = (wanted.file, wanted.request);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Lock::new());
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// In the child of a fork: whose turn it was is of the parent.
    pub fn forget(&self) {
        mem::forget(self.0.take());
    }
}

/// It is our turn; until this is dropped.
struct Turn(Arc<Lock>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

async fn acquire(wanted: Wanted, turn: Arc<Lock>) -> io::Result<Held> {
    turn.lock().await;
    let _turn = Turn(turn);
    let mut pause = FIRST_PAUSE;
    while !wanted.attempt()? {
        after(pause).await;
        pause = (pause + pause / 2).min(LONGEST_PAUSE);
    }
    Ok(Held(Some(wanted)))
}

fn after(pause: u64) -> Until<Payload> {
    let event_loop = run_loop::existing().expect("a loop polls it");
    event_loop.scheduler.until(clock::now() + pause)
}

fn park_for(py: Python<'_>, fd: RawFd, file: &libc::stat, request: Request) -> PyResult<()> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("waiting for a file lock"));
    };
    wait::check(task)?;
    let file = (file.st_dev, file.st_ino);
    let wanted = Wanted { fd, file, request };
    let turn = event_loop.turns.of(&wanted);
    match bridge::park_on_spawned(py, event_loop, acquire(wanted, turn))? {
        Ok(mut held) => {
            held.0 = None;
            Ok(())
        }
        Err(error) => Err(errors::from_io(py, &error)),
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn wait_flock(py: Python<'_>, fd: RawFd, operation: i32) -> PyResult<()> {
    let file = status(fd).map_err(|error| errors::from_io(py, &error))?;
    park_for(py, fd, &file, Request::Whole(operation))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn wait_record_lock(
    py: Python<'_>,
    fd: RawFd,
    command: i32,
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
) -> PyResult<()> {
    let file = status(fd).map_err(|error| errors::from_io(py, &error))?;
    // What it is relative to may move while we wait; the system would ask for it once.
    let base = match i32::from(whence) {
        // SAFETY: takes numbers only.
        libc::SEEK_CUR => unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) },
        libc::SEEK_END => file.st_size,
        _ => 0,
    };
    if base < 0 {
        return Err(errors::from_io(py, &io::Error::last_os_error()));
    }
    let request = Request::Part {
        command,
        kind,
        start: base.saturating_add(start),
        length,
    };
    park_for(py, fd, &file, request)
}
