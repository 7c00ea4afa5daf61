//! Waiting, once for everybody: tasks park, OS threads block with the interpreter released, and
//! coroutines (native ones, and those of hosts) poll.

mod awaitable;
mod blocking;

use std::sync::Arc;
use std::task::{Context, Poll};

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::task::Task;
use aevent_runtime::wait_queue::{WaitQueue, Waiter};
use pyo3::prelude::*;

use crate::errors::{self, Outcome};
use crate::raw;
use crate::run_loop::{self, Loop};
use crate::stack::Object;
use crate::task::{Payload, TaskRef, state};

pub use awaitable::{Wait, shielded_checkpoint};
pub use blocking::block_until;

/// A timeout in seconds as a deadline.
///
/// Rounded up: who asks for a little time again and again, until a deadline in seconds has come, must
/// not be told that it is over when it has not passed. A test's clock may stand still meanwhile.
pub fn deadline_after(seconds: f64) -> u64 {
    if seconds.is_nan() || seconds <= 0.0 {
        return clock::now();
    }
    let nanos = seconds * 1e9;
    if nanos >= (u64::MAX / 2) as f64 {
        return NEVER;
    }
    clock::now().saturating_add(nanos.ceil() as u64)
}

/// Raises what waits for the running task: an interrupt, or its cancellation.
#[inline(always)]
pub fn check(task: &TaskRef) -> Outcome<()> {
    let state = state(task);
    if let Some(scope) = &state.scope
        && scope.is_cancelled()
    {
        return Err(errors::cancelled_in(scope).into());
    }
    if state.interrupt.is_some() {
        return Err(take_interrupt(task).into());
    }
    Ok(())
}

/// Raises what waits for the running task, other than its cancellation.
#[inline(always)]
pub fn check_interrupt(task: &Task<Payload>) -> Outcome<()> {
    if task.payload.state().interrupt.is_some() {
        return Err(take_interrupt(task).into());
    }
    Ok(())
}

/// Whether [`check`] would raise.
#[inline(always)]
pub fn is_to_raise(task: &Task<Payload>) -> bool {
    let state = task.payload.state();
    state.scope.as_ref().is_some_and(Scope::is_cancelled) || state.interrupt.is_some()
}

/// Sets the exception that [`check`] would raise. Always null.
#[cold]
#[inline(never)]
pub fn raise_in(task: &Task<Payload>) -> Object {
    let state = task.payload.state();
    let error = match &state.scope {
        Some(scope) if scope.is_cancelled() => errors::cancelled_in(scope),
        _ => take_interrupt(task),
    };
    raw::give(Err(error.into()))
}

#[cold]
fn take_interrupt(task: &Task<Payload>) -> PyErr {
    task.payload
        .state()
        .interrupt
        .take()
        .unwrap_or_else(errors::cancelled)
}

/// Parks `task`, the running one, until `poll` is ready, and returns true; false at `deadline`.
///
/// `poll` is called again after each unpark and must have the waker of its context woken when its
/// answer changes. With `shielded`, neither cancellation nor an interrupt ends the wait.
/// `Err`: cancelled, interrupted, or an exception that the host threw in. `poll` is then to be
/// cancelled by the caller.
#[inline]
pub fn park_until(
    py: Python<'_>,
    event_loop: &Loop,
    task: &TaskRef,
    deadline: u64,
    shielded: bool,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Outcome<bool> {
    let waker = task.waker_ref();
    let mut cx = Context::from_waker(&waker);
    let mut timer = None;
    let result = loop {
        if poll(&mut cx).is_ready() {
            break Ok(true);
        }
        if !shielded && let Err(error) = check(task) {
            break Err(error);
        }
        if deadline != NEVER {
            if clock::now() >= deadline {
                break Ok(false);
            }
            if timer.is_none() {
                timer = Some(event_loop.scheduler.unpark_at(deadline, task.clone()));
            }
        }
        match event_loop.park(py) {
            Ok(()) => {}
            // Whatever the host threw: it is raised once the wait is over.
            Err(raised) if shielded => state(task).interrupt = Some(raised.into()),
            Err(error) => break Err(error),
        }
    };
    if let Some(timer) = timer {
        event_loop.scheduler.forget_deadline(timer);
    }
    result
}

/// Waits as whoever the caller is: the running task parks, an OS thread blocks.
#[inline]
pub fn wait_until(
    py: Python<'_>,
    deadline: u64,
    shielded: bool,
    poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> PyResult<bool> {
    match run_loop::cooperating() {
        Some(task) => {
            let task = task.clone();
            let event_loop = run_loop::existing().expect("a task runs on a loop");
            Ok(park_until(py, event_loop, &task, deadline, shielded, poll)?)
        }
        None => block_until(py, deadline, poll),
    }
}

/// Something that becomes true and then tells a wait queue.
pub trait Source: Send + Sync {
    /// Whether the wait is over. Called with the interpreter attached.
    fn is_ready(&self) -> bool;
    /// Who is told when the answer may have changed.
    fn queue(&self) -> Arc<WaitQueue>;
}

/// Something that a [`Wait`] waits for.
pub trait Pollable: Send + Sync {
    /// Ready, or the context's waker will be woken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// The same for something that has to know the task that is to be unparked.
    fn poll_for(&mut self, task: Option<&TaskRef>, cx: &mut Context<'_>) -> Poll<()> {
        let _ = task;
        self.poll(cx)
    }
    /// What the wait was for, asked once, when it is ready.
    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.None())
    }
    /// The wait is given up: what was handed over meanwhile is passed on.
    fn cancel(&mut self);
}

struct SourceWait {
    source: Box<dyn Source>,
    waiter: Option<Waiter>,
}

impl Pollable for SourceWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.source.is_ready() {
                self.waiter = None;
                return Poll::Ready(());
            }
            let waiter = self
                .waiter
                .get_or_insert_with(|| self.source.queue().listen());
            if self.source.is_ready() {
                continue;
            }
            if waiter.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.waiter = None;
        }
    }

    fn cancel(&mut self) {
        self.waiter = None;
    }
}
