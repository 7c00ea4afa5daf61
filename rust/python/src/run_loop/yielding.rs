//! A task that need not wait lets others run.

use std::ptr::{null, null_mut};
use std::sync::Arc;

use aevent_runtime::fork;
use aevent_runtime::task::Task;
use pyo3::prelude::*;

use super::{Driver, Loop, Next, current};
use crate::errors::{Outcome, Raised};
use crate::portal;
use crate::preempt;
use crate::raw;
use crate::stack::{self, Object};
use crate::task::{Kind, Payload, TaskRef, state};
use crate::wait;

/// The end of [`Loop::yield_briefly`] if the next task is frozen. Neither inlined nor of Rust's own
/// kind, which might unwind: so its caller jumps here, and has no frame any more while others run.
#[inline(never)]
extern "C" fn resume_and_check(
    event_loop: &Loop,
    me: &Task<Payload>,
    task: *const Task<Payload>,
) -> Object {
    // SAFETY: the caller gives up a reference.
    let result = event_loop.resume(unsafe { Arc::from_raw(task) });
    match Loop::back(me, result) {
        Ok(()) => event_loop.checked(me),
        Err(Raised) => null_mut(),
    }
}

/// The same for any task, or for whichever comes next if it is null.
#[inline(never)]
extern "C" fn leave_and_check(
    event_loop: &Loop,
    me: &Task<Payload>,
    task: *const Task<Payload>,
) -> Object {
    let next = if task.is_null() {
        event_loop.pick()
    } else {
        // SAFETY: as above.
        Next::Task(unsafe { Arc::from_raw(task) })
    };
    match event_loop.leave_to(me, next) {
        Ok(()) => event_loop.checked(me),
        Err(Raised) => null_mut(),
    }
}

#[inline(never)]
fn pause_portal(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> Outcome<()> {
    Ok(portal::pause(py, event_loop, me)?)
}

impl Loop {
    /// Lets the others run first. Returns at once if there are none, and in a host's task that imports
    /// something: the host's other tasks, and its own code, could not wait for the module's lock.
    #[inline]
    pub fn yield_now(&self, py: Python<'_>) -> Outcome<()> {
        if self.generation.get() != fork::generation() {
            // A hook of somebody's runs in the child of a fork, and ours has not yet: there is
            // nobody to let run.
            return Ok(());
        }
        if !self.scheduler.has_ready() {
            if !self.scheduler.is_look_due() {
                return Ok(());
            }
            if self.driver.get() == Driver::Native {
                // Futures are polled there, in which nobody is current.
                let me = self.take_current();
                self.look();
                if let Some(me) = me {
                    self.set_current(me);
                }
                if !self.scheduler.has_ready() {
                    // A signal may have been noticed there, while nobody was current. To wake the main
                    // task has put it nowhere if it is the one that goes on here.
                    return match current() {
                        Some(me) => {
                            self.call_handlers(&me)?;
                            wait::check_interrupt(&me)
                        }
                        None => Ok(()),
                    };
                }
            }
        }
        let Some(me) = self.take_current() else {
            return Ok(());
        };
        let pointer: *const Task<Payload> = Arc::as_ptr(&me);
        if state(&me).kind == Kind::Host {
            if preempt::is_importing(py) {
                self.set_current(me);
                return Ok(());
            }
            me.begin_yield();
            self.scheduler.enqueue(me.clone());
            return pause_portal(py, self, me);
        }
        // It goes on counting as running: two atomic exchanges less.
        self.scheduler.requeue(me);
        // SAFETY: the run queue keeps the task alive until it is resumed, and then `current` does.
        let me = unsafe { &*pointer };
        self.leave(me)?;
        self.call_handlers(me)?;
        wait::check_interrupt(me)
    }

    /// `time.sleep(0)` of a green thread while others are ready: the whole of it, and hardly anything on
    /// the stack meanwhile. If this is not such a case, calls `otherwise`.
    #[inline(always)]
    pub fn yield_briefly(&self, otherwise: impl FnOnce() -> Object) -> Object {
        // SAFETY: one thread; the reference is not kept.
        let Some(me) = (unsafe { (*self.current.get()).as_ref() }) else {
            return otherwise();
        };
        let pointer: *const Task<Payload> = Arc::as_ptr(me);
        if state(me).kind != Kind::Green
            || self.generation.get() != fork::generation()
            || !self.scheduler.has_ready()
            || wait::is_to_raise(me)
        {
            return otherwise();
        }
        if let Some(me) = self.take_current() {
            self.scheduler.requeue(me);
        }
        // SAFETY: the run queue keeps the task alive until it is resumed, and then `current` does.
        let me = unsafe { &*pointer };
        if !self.stop.get()
            && !self.scheduler.is_look_due()
            && let Some(task) = self.scheduler.next()
        {
            self.foresee();
            let state = state(&task);
            if state.is_frozen()
                && !std::ptr::eq(Arc::as_ptr(&task), me)
                && me.payload.state().running_loop.is_null()
            {
                me.payload.state().frozen = stack::current();
                return resume_and_check(self, me, Arc::into_raw(task));
            }
            return leave_and_check(self, me, Arc::into_raw(task));
        }
        leave_and_check(self, me, null())
    }

    #[inline(always)]
    fn checked(&self, me: &Task<Payload>) -> Object {
        if self.call_handlers(me).is_err() {
            return null_mut();
        }
        if wait::is_to_raise(me) {
            return wait::raise_in(me);
        }
        raw::none()
    }

    /// After a call that did not have to wait: yields if the task's time slice is over, so that one
    /// that always finds its data ready does not keep the others from running.
    #[inline(always)]
    pub fn breathe(&self, py: Python<'_>) -> Outcome<()> {
        if self.scheduler.is_look_due() {
            return self.yield_now(py);
        }
        Ok(())
    }
}
