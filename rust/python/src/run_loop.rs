//! The loop of one OS thread: who runs next, and on which stack.
//!
//! A *stack* is a greenlet that runs `stack_loop`: it takes the next task and, if the task has not
//! begun, runs it right there. If the task parks, the stack stays frozen with it, and another from
//! the pool goes on. A parking task switches straight to the next one if that is frozen too.
//!
//! New stacks are started by the *base* only: the greenlet that called `Loop::run` or
//! `Loop::tick`, which sits at a shallow depth of the C stack.
//!
//! Every function here that may switch takes what it needs out of the cells first and borrows
//! nothing across. `events` alone releases the interpreter to wait.

mod after_fork;
mod all_loops;
mod driver;
mod events;
mod foresight;
mod sharing;
mod stack_loop;
mod this_thread;
mod yielding;

use std::cell::{Cell, UnsafeCell};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use aevent_runtime::fork;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use pyo3::ffi;
use pyo3::prelude::*;

pub use after_fork::after_fork_in_child;
pub use all_loops::close_descriptor;
pub use driver::Driver;
use sharing::Sharing;
pub use stack_loop::stack_address;
use this_thread::THREAD;
pub use this_thread::{
    Aside, breathe_after_refusal, breathe_if_green, breathe_now_and_then, cooperates, cooperating,
    cooperating_loop, current, current_address, driven_loop, existing, interrupted_is_green,
    is_child_of_a_fork, obtain, running, thread_identity,
};

use crate::child_process::Questions;
use crate::errors::{self, Outcome, Raised};
use crate::file_lock::Turns;
use crate::portal;
use crate::running_loop;
use crate::signals::{self, Signals};
use crate::stack::{self, Object};
use crate::task::{Kind, Payload, SchedulerRef, TaskRef, release, state};
use crate::tracing::Tracing;

/// The loop of one OS thread. Reached by that thread only, with the interpreter attached.
pub struct Loop {
    /// The runtime's part.
    pub scheduler: SchedulerRef,
    /// Stacks with nothing to do. Owned references.
    idle: UnsafeCell<Vec<Object>>,
    /// The greenlet that called `run` or `tick`. Borrowed: it is suspended in that call.
    base: Cell<Object>,
    /// The next task, for the stack that is switched to.
    hand_off: UnsafeCell<Option<TaskRef>>,
    /// The running task.
    current: UnsafeCell<Option<TaskRef>>,
    driver: Cell<Driver>,
    /// `run` has what it waited for: go back to the base.
    stop: Cell<bool>,
    /// How many stacks exist.
    stacks: Cell<usize>,
    /// How many references there are to a running stack that nobody else knows, one of them the
    /// asker's.
    references: Cell<ffi::Py_ssize_t>,
    /// Calls signal handlers.
    main: UnsafeCell<Option<TaskRef>>,
    /// The signals whose handlers it has still to call.
    pub signals: Signals,
    /// What its tasks want to know of children.
    pub questions: Questions,
    /// Whose turn it is to try for a file lock.
    pub turns: Turns,
    /// A failure of the loop itself, on its way to the base.
    failure: UnsafeCell<Option<PyErr>>,
    /// The adapter of the host that drives us.
    host: UnsafeCell<Option<Py<PyAny>>>,
    is_main_thread: bool,
    /// Of the interpreter, with other threads, while a host drives.
    sharing: Sharing,
    /// Whose trace and profile functions are installed.
    pub tracing: Tracing,
    /// The process that it was made for, or reset for after a fork.
    generation: Cell<u32>,
}

/// Where the scheduler goes on from.
enum Next {
    Task(TaskRef),
    Base,
}

impl Loop {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let scheduler = Scheduler::new().map_err(|error| errors::from_io(py, &error))?;
        all_loops::add(&scheduler);
        let threading = py.import("threading")?;
        let is_main_thread = threading
            .call_method0("main_thread")?
            .getattr("ident")?
            .extract::<u64>()
            // SAFETY: takes nothing, needs the interpreter attached, which it is.
            .is_ok_and(|ident| ident == unsafe { ffi::PyThread_get_thread_ident() } as u64);
        Ok(Self {
            scheduler,
            idle: UnsafeCell::new(Vec::new()),
            base: Cell::new(null_mut()),
            hand_off: UnsafeCell::new(None),
            current: UnsafeCell::new(None),
            driver: Cell::new(Driver::None),
            stop: Cell::new(false),
            stacks: Cell::new(0),
            references: Cell::new(2),
            main: UnsafeCell::new(None),
            signals: Signals::new(),
            questions: Questions::default(),
            turns: Turns::default(),
            failure: UnsafeCell::new(None),
            host: UnsafeCell::new(None),
            is_main_thread,
            sharing: Sharing::new(),
            tracing: Tracing::new(),
            generation: Cell::new(fork::generation()),
        })
    }

    /// Who calls the loop.
    pub fn driver(&self) -> Driver {
        self.driver.get()
    }

    /// How many stacks exist, for statistics.
    pub fn stacks(&self) -> usize {
        self.stacks.get()
    }

    /// How many references there are to a running stack that the program knows nothing of, if the
    /// asker has one.
    pub fn references_to_stack(&self) -> ffi::Py_ssize_t {
        self.references.get()
    }

    /// The running task. Also from other threads, with the interpreter attached.
    pub fn current_task(&self) -> Option<TaskRef> {
        // SAFETY: the interpreter's lock serialises this with the loop's own thread, which changes it
        // in one go; cloning runs no Python code.
        unsafe { (*self.current.get()).clone() }
    }

    /// The task that calls signal handlers.
    pub fn main(&self) -> Option<TaskRef> {
        // SAFETY: as in `host`.
        unsafe { (*self.main.get()).clone() }
    }

    /// Sets the task that calls signal handlers, and returns the previous one.
    pub fn set_main(&self, task: Option<TaskRef>) -> Option<TaskRef> {
        // SAFETY: as in `host`.
        unsafe { std::mem::replace(&mut *self.main.get(), task) }
    }

    /// Makes `task` the running one.
    #[inline(always)]
    pub fn set_current(&self, task: TaskRef) {
        self.tracing.before(Some(&task));
        let current = state(&task);
        // A host's task has nobody to wake it unless the host drives us.
        let cooperating = if current.native == 0
            && (current.kind != Kind::Host || self.driver.get() == Driver::Host)
        {
            Arc::as_ptr(&task)
        } else {
            null()
        };
        // SAFETY: one thread; what was there is overwritten without being dropped, since every
        // caller has taken it out before.
        unsafe {
            debug_assert!((*self.current.get()).is_none());
            std::ptr::write(self.current.get(), Some(task));
        }
        THREAD.with(|thread| thread.cooperating.set(cooperating));
    }

    /// Takes the running task out: from now on no task runs.
    #[inline(always)]
    pub fn take_current(&self) -> Option<TaskRef> {
        THREAD.with(|thread| thread.cooperating.set(null()));
        // SAFETY: one thread, nothing borrowed.
        unsafe { (*self.current.get()).take() }
    }

    /// Counts one `native()` more or less (`delta`) for the running task. False without a task.
    pub fn adjust_native(&self, delta: i32) -> bool {
        let Some(task) = self.take_current() else {
            return false;
        };
        let state = state(&task);
        state.native = state.native.saturating_add_signed(delta);
        self.set_current(task);
        true
    }

    /// Sets how often `native()` counts as entered, and returns the former number.
    pub fn replace_native(&self, value: u32) -> Option<u32> {
        let task = self.take_current()?;
        let former = std::mem::replace(&mut state(&task).native, value);
        self.set_current(task);
        Some(former)
    }

    #[inline(always)]
    fn take_hand_off(&self) -> Option<TaskRef> {
        // SAFETY: one thread, nothing borrowed.
        unsafe { (*self.hand_off.get()).take() }
    }

    fn set_hand_off(&self, task: TaskRef) {
        // SAFETY: as above; it is empty, since whoever is switched to takes it at once.
        unsafe { *self.hand_off.get() = Some(task) };
    }

    fn pop_idle(&self) -> Option<Object> {
        // SAFETY: one thread, nothing borrowed.
        unsafe { (*self.idle.get()).pop() }
    }

    fn push_idle(&self, stack: Object) {
        // SAFETY: as above.
        unsafe { (*self.idle.get()).push(stack) };
    }

    fn idle_len(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.idle.get()).len() }
    }

    /// Picks who goes on. Waits for events if nobody is ready and the loop is ours to block.
    #[inline]
    fn pick(&self) -> Next {
        if self.stop.get() {
            return Next::Base;
        }
        if self.scheduler.is_look_due() {
            match self.driver.get() {
                Driver::Native => self.look(),
                _ => return Next::Base,
            }
        }
        match self.scheduler.next() {
            Some(task) => {
                self.foresee();
                Next::Task(task)
            }
            None => self.pick_when_idle(),
        }
    }

    #[inline(never)]
    fn pick_when_idle(&self) -> Next {
        loop {
            if self.stop.get() || self.driver.get() != Driver::Native {
                return Next::Base;
            }
            self.wait_for_events();
            if self.stop.get() {
                return Next::Base;
            }
            if let Some(task) = self.scheduler.next() {
                return Next::Task(task);
            }
        }
    }

    /// Switches to a frozen task. Returns what greenlet's switch returned, when somebody has
    /// switched back.
    #[inline(always)]
    fn resume(&self, task: TaskRef) -> Object {
        let frozen = state(&task).frozen;
        task.begin_run();
        self.set_current(task);
        // SAFETY: a frozen task's greenlet is alive: the task owns it until it runs again.
        unsafe { stack::switch(frozen) }
    }

    /// Calls the host's callback of a task that was unparked.
    #[inline(never)]
    fn resume_host(&self, task: TaskRef) {
        task.begin_run();
        let Some(resume) = state(&task).resume.take() else {
            return;
        };
        drop(task);
        // SAFETY: attached; see `wait_for_events`.
        let py = unsafe { Python::assume_attached() };
        if let Err(error) = resume.call0(py) {
            error.write_unraisable(py, Some(resume.bind(py)));
        }
    }

    /// Leaves the running stack, because `me` (taken out of `current` before) has parked or yielded,
    /// and returns when `me` is resumed.
    ///
    /// `Err`: an exception was thrown into the greenlet, or the host threw one in.
    #[inline(always)]
    fn leave(&self, me: &Task<Payload>) -> Outcome<()> {
        self.leave_to(me, self.pick())
    }

    /// [`Loop::leave`] when it is clear who goes on.
    #[inline(always)]
    fn leave_to(&self, me: &Task<Payload>, next: Next) -> Outcome<()> {
        if me.payload.state().running_loop.is_null() {
            return self.leave_stack(me, next);
        }
        self.leave_with_loop(me, next)
    }

    /// [`Loop::leave_to`] for a task that runs an event loop of its own.
    #[cold]
    #[inline(never)]
    fn leave_with_loop(&self, me: &Task<Payload>, next: Next) -> Outcome<()> {
        let own = me.payload.state().running_loop;
        running_loop::hide(me);
        let result = self.leave_stack(me, next);
        // SAFETY: the task that is back is the one that has noted it.
        unsafe { running_loop::show(me, own) };
        result
    }

    #[inline(always)]
    fn leave_stack(&self, me: &Task<Payload>, mut next: Next) -> Outcome<()> {
        let result;
        loop {
            match next {
                Next::Task(task) => {
                    if std::ptr::eq(Arc::as_ptr(&task), me) {
                        task.begin_run();
                        self.set_current(task);
                        return Ok(());
                    }
                    let state = state(&task);
                    if state.is_frozen() {
                        me.payload.state().frozen = stack::current();
                        result = self.resume(task);
                        break;
                    }
                    if state.kind == Kind::Host {
                        self.resume_host(task);
                        next = self.pick();
                        continue;
                    }
                    let target = state.take_stack().or_else(|| self.pop_idle());
                    self.set_hand_off(task);
                    me.payload.state().frozen = stack::current();
                    // SAFETY: an idle stack and the base are suspended greenlets of this thread.
                    result = unsafe { stack::switch(target.unwrap_or(self.base.get())) };
                    break;
                }
                Next::Base => {
                    me.payload.state().frozen = stack::current();
                    // SAFETY: as above.
                    result = unsafe { stack::switch(self.base.get()) };
                    break;
                }
            }
        }
        Self::back(me, result)
    }

    /// The running greenlet is the one that `me` was frozen with.
    #[inline(always)]
    fn back(me: &Task<Payload>, result: Object) -> Outcome<()> {
        let frozen = std::mem::replace(&mut me.payload.state().frozen, null_mut());
        release(frozen);
        if result.is_null() {
            return Err(Raised);
        }
        release(result);
        Ok(())
    }

    /// Parks the running task until it is unparked; may return for no reason.
    ///
    /// `Err`: the host has thrown an exception in. Cancellation is the caller's to ask for.
    #[inline]
    pub fn park(&self, py: Python<'_>) -> Outcome<()> {
        let Some(me) = self.take_current() else {
            return Err(errors::no_task("a blocking call").into());
        };
        if !me.begin_park() {
            self.set_current(me);
            return Ok(());
        }
        if state(&me).kind == Kind::Host {
            return park_portal(py, self, me);
        }
        // `me` stays on this stack, and keeps the task alive, until it is resumed.
        self.leave(&me)?;
        self.call_handlers(&me)
    }

    /// `me` has been resumed: if it is the main task, it calls the signal handlers that others have
    /// left to it. `Err`: one has raised.
    #[inline(always)]
    fn call_handlers(&self, me: &Task<Payload>) -> Outcome<()> {
        if self.signals.are_postponed() {
            return signals::run_postponed(self, me);
        }
        Ok(())
    }
}

#[inline(never)]
fn park_portal(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> Outcome<()> {
    Ok(portal::park(py, event_loop, me)?)
}
