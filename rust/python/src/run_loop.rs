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
//! nothing across. This file alone releases the interpreter to wait for events.

mod after_fork;
mod all_loops;
mod driver;
mod foresight;
mod stack_loop;
mod this_thread;

use std::cell::{Cell, UnsafeCell};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use aevent_runtime::clock;
use aevent_runtime::fork;
use aevent_runtime::reactor;
use aevent_runtime::scheduler::{Pace, Scheduler};
use aevent_runtime::task::Task;
use pyo3::ffi;
use pyo3::prelude::*;

pub use after_fork::after_fork_in_child;
pub use all_loops::close_descriptor;
pub use driver::Driver;
pub use stack_loop::stack_address;
use this_thread::THREAD;
pub use this_thread::{
    Aside, breathe_after_refusal, breathe_if_green, breathe_now_and_then, cooperates, cooperating,
    cooperating_loop, current, current_address, driven_loop, existing, interrupted_is_green,
    is_child_of_a_fork, obtain, running, thread_identity,
};

use crate::errors::{self, Outcome, Raised};
use crate::portal;
use crate::raw;
use crate::running_loop;
use crate::signals::{self, Signals};
use crate::stack::{self, Object};
use crate::task::{Kind, Payload, SchedulerRef, TaskRef, release, state};
use crate::tracing::Tracing;
use crate::wait;

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
    /// A failure of the loop itself, on its way to the base.
    failure: UnsafeCell<Option<PyErr>>,
    /// The adapter of the host that drives us.
    host: UnsafeCell<Option<Py<PyAny>>>,
    is_main_thread: bool,
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
            failure: UnsafeCell::new(None),
            host: UnsafeCell::new(None),
            is_main_thread,
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

    #[inline(never)]
    fn look(&self) {
        let result = self.scheduler.look();
        self.after_events(result);
    }

    /// Whoever waits for what the running task has just done in the kernel runs next.
    #[inline(never)]
    pub fn look_ahead(&self) {
        let result = self.scheduler.look_ahead();
        self.after_events(result);
    }

    /// The place where the native loop blocks, and releases the interpreter for it.
    #[inline(never)]
    fn wait_for_events(&self) {
        let timeout = self.scheduler.time_to_wait();
        if timeout == Some(0) {
            return self.look();
        }
        if self.scheduler.is_quiet_awaited() {
            return self.wait_for_quiet(timeout);
        }
        let (fd, mut batch) = self.scheduler.begin_wait();
        // SAFETY: we are attached, or no Python code could have called us.
        let py = unsafe { Python::assume_attached() };
        self.scheduler.set_waits(true);
        let result = py.detach(|| reactor::wait(fd, &mut batch, timeout));
        let result = self.scheduler.take_in(batch, result);
        self.scheduler.set_waits(false);
        self.after_events(result);
    }

    /// The same while somebody waits until nothing happens any more.
    #[cold]
    #[inline(never)]
    fn wait_for_quiet(&self, timeout: Option<u64>) {
        let pace = self.scheduler.pace();
        let timeout = match pace {
            Pace::Real(left) => left,
            Pace::Own => timeout,
        };
        let shorter = match (timeout, self.scheduler.patience()) {
            (Some(timeout), Some(patience)) => Some(timeout.min(patience)),
            (timeout, patience) => timeout.or(patience),
        };
        let (own, began) = (clock::now(), clock::real());
        let (fd, mut batch) = self.scheduler.begin_wait();
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        self.scheduler.set_waits(true);
        let result = py.detach(|| reactor::wait(fd, &mut batch, shorter));
        let lasted = clock::real() - began;
        if matches!(pace, Pace::Real(_)) {
            clock::jump_to(own + lasted);
        }
        let nothing = matches!(result, Ok(0));
        let result = self.scheduler.take_in(batch, result);
        self.scheduler.set_waits(false);
        self.after_events(result);
        if nothing && !self.scheduler.has_ready() && !self.stop.get() {
            self.scheduler.after_quiet(lasted);
        }
    }

    fn after_events(&self, result: std::io::Result<()>) {
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        if let Err(error) = result {
            self.fail(errors::from_io(py, &error));
        }
        if self.is_main_thread {
            // Ours leave the program's handlers to the main task. Those that were set without us run
            // here with no task current, so whatever they call is the original.
            // SAFETY: attached.
            if unsafe { ffi::PyErr_CheckSignals() } != 0 {
                self.interrupt(PyErr::fetch(py));
            }
        }
    }

    /// A failure of the loop itself: `run` or `tick` raises it.
    fn fail(&self, error: PyErr) {
        // SAFETY: one thread, nothing borrowed.
        unsafe { *self.failure.get() = Some(error) };
        self.stop.set(true);
    }

    /// Delivers the exception of a handler that was not given to `deliver_signal` to the main task,
    /// where it parks next or is parked.
    fn interrupt(&self, error: PyErr) {
        match self.main() {
            Some(main) if !main.is_done() => {
                let former = state(&main).interrupt.replace(error);
                drop(former);
                main.unpark();
            }
            _ => self.fail(error),
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

    /// Lets the others run first. Returns at once if there are none.
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
                self.look();
                if !self.scheduler.has_ready() {
                    // The handler of a signal that was noticed may have raised.
                    return match current() {
                        Some(me) => wait::check_interrupt(&me),
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

#[inline(never)]
fn park_portal(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> Outcome<()> {
    Ok(portal::park(py, event_loop, me)?)
}
