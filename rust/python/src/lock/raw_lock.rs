//! What `Lock` and `RLock` have in common: the lock itself, and the waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::{self, Acquire};
use pyo3::prelude::*;

use crate::errors::{self, Outcome, Raised};
use crate::run_loop;
use crate::wait::{self, Pollable};

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
                return Err(errors::deadlock().into());
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
