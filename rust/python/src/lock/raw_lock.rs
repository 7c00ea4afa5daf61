//! What `Lock` and `RLock` have in common: the lock itself, and the waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::wait_queue::{self, Acquire};
use pyo3::prelude::*;

use crate::errors::{self, Outcome, Raised};
use crate::run_loop;
use crate::wait::{self, Pollable};

/// How long a host's own code waits for a lock, in nanoseconds, until that counts as a deadlock.
const PATIENCE: u64 = 5_000_000_000;

/// How long it waits for other OS threads before it looks what green threads do.
const MOMENT: u64 = 1_000_000;

/// A lock that remembers on which thread's loop the task runs that took it, so that a wait that can
/// never end is refused.
pub struct Raw {
    lock: wait_queue::Lock,
    /// The address of the loop of the task that holds it; 0 for an OS thread.
    holder: AtomicUsize,
}

impl Raw {
    pub fn new() -> Self {
        Self {
            lock: wait_queue::Lock::new(),
            holder: AtomicUsize::new(0),
        }
    }

    /// Whether anybody holds it.
    #[inline(always)]
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// How many wait for it.
    pub fn waiters(&self) -> u32 {
        self.lock.waiters()
    }

    /// Takes it if it is free.
    #[inline(always)]
    pub fn try_acquire(&self) -> bool {
        if self.lock.try_lock() {
            self.note_holder();
            return true;
        }
        false
    }

    #[inline(always)]
    fn note_holder(&self) {
        self.holder
            .store(run_loop::cooperating_loop(), Ordering::Relaxed);
    }

    /// Waits for the lock. `deadline`: `None` does not wait.
    pub fn acquire(&self, deadline: Option<u64>, shielded: bool) -> Outcome<bool> {
        if self.try_acquire() {
            return Ok(true);
        }
        let Some(deadline) = deadline else {
            return Ok(false);
        };
        self.acquire_slow(deadline, shielded)
    }

    /// The same for a lock that was not free a moment ago.
    #[inline(never)]
    pub fn acquire_slow(&self, deadline: u64, shielded: bool) -> Outcome<bool> {
        // SAFETY: attached: Python has called us.
        let py = unsafe { Python::assume_attached() };
        let mut acquire = self.lock.lock_ref();
        let result = match run_loop::cooperating().cloned() {
            Some(task) => {
                let event_loop = run_loop::existing().expect("a task runs on a loop");
                wait::park_until(py, event_loop, &task, deadline, shielded, |cx| {
                    acquire.poll(cx)
                })
            }
            None => self.block(py, deadline, &mut acquire),
        };
        // Ours by hand-over, if it says so; dropping the `Acquire` would give it back.
        let handed_over = acquire.cancel();
        if result.is_ok() {
            if handed_over {
                self.note_holder();
            }
            return Ok(handed_over);
        }
        if handed_over {
            self.lock.unlock();
        }
        Err(Raised)
    }

    #[inline(never)]
    fn block(
        &self,
        py: Python<'_>,
        deadline: u64,
        acquire: &mut Acquire<&wait_queue::Core>,
    ) -> Outcome<bool> {
        if deadline == NEVER {
            let holder = self.holder.load(Ordering::Relaxed);
            if holder != 0 && holder == run_loop::driven_loop() {
                return Ok(wait_in_host(py, |cx| acquire.poll(cx))?);
            }
        }
        Ok(wait::block_until(py, deadline, |cx| acquire.poll(cx))?)
    }

    /// In the child of a fork: free, whoever held it in the parent.
    pub fn reset(&self) {
        self.lock.reset();
        self.holder.store(0, Ordering::Relaxed);
    }

    /// False if nobody held it.
    #[inline(always)]
    pub fn release(&self) -> bool {
        self.lock.unlock()
    }
}

/// A host's own code waits, in a task without a portal or in a callback, for what a green thread of the same
/// OS thread holds: has the green threads run meanwhile. The lock of a logging handler is such, when the
/// green thread that writes was preempted. `Err`: nobody can run here, or it took too long: who holds it may
/// be waiting for the host.
#[cold]
fn wait_in_host(
    py: Python<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> PyResult<bool> {
    let event_loop = run_loop::existing().filter(|_| run_loop::current().is_none());
    let host = event_loop.and_then(|event_loop| Some((event_loop, event_loop.host(py)?)));
    let Some((event_loop, host)) = host else {
        return Err(errors::deadlock());
    };
    let give_up = clock::real() + PATIENCE;
    let mut pause = 0;
    loop {
        if wait::block_until(py, clock::now().saturating_add(pause), &mut poll)? {
            if pause == 0 {
                event_loop.scheduler.notify();
            }
            return Ok(true);
        }
        let more: Option<bool> = host.call_method0(py, "run_others")?.extract(py)?;
        match more {
            Some(more) if clock::real() < give_up => pause = if more { 0 } else { MOMENT },
            _ => return Err(errors::deadlock()),
        }
    }
}

/// A coroutine's wait for a lock.
pub struct AcquireWait {
    lock: wait_queue::Lock,
    acquire: Option<Acquire>,
}

impl Pollable for AcquireWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(acquire) = &mut self.acquire else {
            return Poll::Ready(());
        };
        let result = acquire.poll(cx);
        if result.is_ready()
            && let Some(acquire) = self.acquire.take()
        {
            acquire.cancel();
        }
        result
    }

    fn cancel(&mut self) {
        if let Some(acquire) = self.acquire.take()
            && acquire.cancel()
        {
            self.lock.unlock();
        }
    }
}

impl AcquireWait {
    /// A place in the line is taken at the first poll.
    pub fn new(raw: &Raw) -> Self {
        Self {
            lock: raw.lock.clone(),
            acquire: Some(raw.lock.lock()),
        }
    }
}
