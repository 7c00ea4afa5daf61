//! What the calling OS thread knows of its loop: the questions that patched calls ask, answered by
//! thread-local reads.

use std::cell::{Cell, UnsafeCell};
use std::ptr::null;
use std::rc::Rc;
use std::sync::Arc;

use aevent_runtime::fork;
use aevent_runtime::task::Task;
use pyo3::prelude::*;

use super::{Driver, Loop};
use crate::errors::Outcome;
use crate::task::{Kind, Payload, TaskRef, state};

pub(super) struct ThreadState {
    /// The running task if patched calls shall cooperate: the answer to the question that each of
    /// them asks. Borrowed from the loop's `current`.
    pub(super) cooperating: Cell<*const Task<Payload>>,
    pub(super) event_loop: Cell<*const Loop>,
}

struct Owned(UnsafeCell<Option<Rc<Loop>>>);

thread_local! {
    pub(super) static THREAD: ThreadState = const {
        ThreadState { cooperating: Cell::new(null()), event_loop: Cell::new(null()) }
    };
    static OWNED: Owned = const { Owned(UnsafeCell::new(None)) };
}

/// Whether the caller is in a task whose patched calls cooperate: one thread-local read.
#[inline(always)]
pub fn cooperates() -> bool {
    THREAD.with(|thread| !thread.cooperating.get().is_null())
}

/// The running task, if patched calls cooperate in it.
#[inline(always)]
pub fn cooperating() -> Option<&'static TaskRef> {
    THREAD.with(|thread| {
        if thread.cooperating.get().is_null() {
            return None;
        }
        // SAFETY: `cooperating` is only set while the loop's `current` is, which is never taken
        // without clearing it. Callers clone what they need before anything can switch.
        unsafe { (*(*thread.event_loop.get()).current.get()).as_ref() }
    })
}

/// Whether a signal has interrupted a green thread that cooperates. May be called in a signal handler,
/// in a thread whose loop exists.
pub fn interrupted_is_green() -> bool {
    THREAD.with(|thread| {
        let task = thread.cooperating.get();
        if task.is_null() {
            return false;
        }
        // SAFETY: as in `cooperating`. What was interrupted may be changing the state, so nothing is
        // borrowed; the kind is read as it is at the moment.
        unsafe { (&raw const (*(*task).payload.as_ptr()).kind).read() == Kind::Green }
    })
}

/// The running task, cooperating or not.
#[inline]
pub fn current() -> Option<TaskRef> {
    // SAFETY: as in `cooperating`.
    existing().and_then(|event_loop| unsafe { (*event_loop.current.get()).clone() })
}

/// The same without a reference of its own: callers keep it across nothing that may switch.
#[inline(always)]
pub fn running() -> Option<&'static TaskRef> {
    // SAFETY: as in `cooperating`.
    existing().and_then(|event_loop| unsafe { (*event_loop.current.get()).as_ref() })
}

/// The calling thread's loop, if it has one.
#[inline(always)]
pub fn existing() -> Option<&'static Loop> {
    let event_loop = THREAD.with(|thread| thread.event_loop.get());
    // SAFETY: the pointer is null or the loop that `OWNED` keeps until the thread's end or until it
    // is replaced after a fork; callers keep it no longer than their own call.
    unsafe { event_loop.as_ref() }
}

/// Whether this is the child of a fork in which our hook has not run yet. `threading`'s own hook, which
/// runs before, deals with the threads of the operating system, and must be told of those only.
#[inline]
pub fn is_child_of_a_fork() -> bool {
    existing().is_some_and(|event_loop| event_loop.generation.get() != fork::generation())
}

/// The calling thread's loop, made at the first call.
pub fn obtain(py: Python<'_>) -> PyResult<&'static Loop> {
    if let Some(event_loop) = existing() {
        return Ok(event_loop);
    }
    let event_loop = Rc::new(Loop::new(py)?);
    install(Some(event_loop));
    Ok(existing().expect("it was just installed"))
}

fn install(event_loop: Option<Rc<Loop>>) {
    let pointer = event_loop.as_ref().map_or(null(), Rc::as_ptr);
    // SAFETY: nobody else reaches this thread-local, and nothing is borrowed from it.
    OWNED.with(|owned| unsafe {
        // The predecessor is forgotten, not dropped: it exists only after a fork, and what its
        // stacks and descriptors stand for belongs to the parent.
        std::mem::forget(std::mem::replace(&mut *owned.0.get(), event_loop));
    });
    THREAD.with(|thread| {
        thread.event_loop.set(pointer);
        thread.cooperating.set(null());
    });
}

/// Clears `cooperating` for as long as it lives: for calls into Python that the scheduler makes on
/// its own account, where there is no task to park.
pub struct Aside(*const Task<Payload>);

impl Aside {
    /// Steps aside.
    #[inline]
    pub fn step() -> Self {
        Self(THREAD.with(|thread| thread.cooperating.replace(null())))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.cooperating.set(self.0));
    }
}

/// Before a call that need not wait: others may run if the task's time slice is over, so that a task
/// whose calls never wait does not keep them from running. A few nanoseconds otherwise.
///
/// `Err`: the host has thrown an exception in. Nothing has been done yet then.
#[inline(always)]
pub fn breathe_now_and_then() -> Outcome<()> {
    let due = THREAD.with(|thread| {
        if thread.cooperating.get().is_null() {
            return false;
        }
        // SAFETY: a task cooperates, so its loop exists; see `existing`.
        let event_loop = unsafe { &*thread.event_loop.get() };
        event_loop.scheduler.is_look_due_now_and_then()
    });
    if due { breathe_out() } else { Ok(()) }
}

/// After a call that would have had to wait, but was told not to: a thread that asks again and again
/// must let the others run, as if it were preempted. A coroutine counts on running until it awaits.
#[cold]
pub fn breathe_after_refusal() -> Outcome<()> {
    breathe_if_green()
}

/// The same for a call after which nobody expects others to have run, such as one that never waits: a
/// coroutine counts on running until it awaits.
#[inline(always)]
pub fn breathe_if_green() -> Outcome<()> {
    match cooperating() {
        Some(task) if state(task).kind == Kind::Green => breathe_now_and_then(),
        _ => Ok(()),
    }
}

#[cold]
#[inline(never)]
fn breathe_out() -> Outcome<()> {
    // SAFETY: attached: Python has called us.
    let py = unsafe { Python::assume_attached() };
    existing().map_or(Ok(()), |event_loop| event_loop.yield_now(py))
}

/// The address of the loop, if the caller is in a task that cooperates; else 0.
#[inline(always)]
pub fn cooperating_loop() -> usize {
    THREAD.with(|thread| {
        if thread.cooperating.get().is_null() {
            0
        } else {
            thread.event_loop.get() as usize
        }
    })
}

/// The address of the calling thread's loop, if anybody drives it; else 0.
pub fn driven_loop() -> usize {
    match existing() {
        Some(event_loop) if event_loop.driver.get() != Driver::None => {
            std::ptr::from_ref(event_loop) as usize
        }
        _ => 0,
    }
}

/// The address of the running task, cooperating or not.
#[inline(always)]
pub fn current_address() -> Option<usize> {
    let event_loop = existing()?;
    // SAFETY: as in `cooperating`; nothing is kept.
    unsafe { (*event_loop.current.get()).as_ref() }.map(|task| Arc::as_ptr(task) as usize)
}

/// What tells the calling OS thread from others and from tasks. Never 0.
#[inline(always)]
pub fn thread_identity() -> usize {
    // SAFETY: takes nothing.
    unsafe { libc::pthread_self() as usize }
}
