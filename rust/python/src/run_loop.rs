//! The loop of one OS thread: who runs next, and on which stack.
//!
//! A *stack* is a greenlet that runs [`run_stack`]: it takes the next task and, if the task has not
//! begun, runs it right there. If the task parks, the stack stays frozen with it, and another from
//! the pool goes on. A parking task switches straight to the next one if that is frozen too.
//!
//! New stacks are started by the *base* only: the greenlet that called [`Loop::run`] or
//! [`Loop::tick`], which sits at a shallow depth of the C stack.
//!
//! Every function here that may switch takes what it needs out of the cells first and borrows
//! nothing across. This is also the only file that releases the interpreter to wait for events.

use std::cell::{Cell, UnsafeCell};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use aevent_runtime::fork;
use aevent_runtime::reactor;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::coroutine;
use crate::errors::{self, Outcome, Raised};
use crate::finish;
use crate::portal;
use crate::python_thread;
use crate::raw;
use crate::stack::{self, Object};
use crate::task::{Entry, Kind, Payload, SchedulerRef, TaskRef, release, state};

/// Who calls the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Nobody at the moment.
    None,
    /// [`Loop::run`].
    Native,
    /// A host, with [`Loop::tick`].
    Host,
}

/// Idle stacks kept for the next tasks; more are ended. A stack costs about 5 kB.
const IDLE_STACKS: usize = 1024;

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
    /// Gets a signal handler's exception.
    main: UnsafeCell<Option<TaskRef>>,
    /// A failure of the loop itself, on its way to the base.
    failure: UnsafeCell<Option<PyErr>>,
    /// The adapter of the host that drives us.
    host: UnsafeCell<Option<Py<PyAny>>>,
    is_main_thread: bool,
    /// The process that it was made for, or reset for after a fork.
    generation: Cell<u32>,
}

struct ThreadState {
    /// The running task if patched calls shall cooperate: the answer to the question that each of
    /// them asks. Borrowed from the loop's `current`.
    cooperating: Cell<*const Task<Payload>>,
    event_loop: Cell<*const Loop>,
}

struct Owned(UnsafeCell<Option<Rc<Loop>>>);

thread_local! {
    static THREAD: ThreadState = const {
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

/// The running task, cooperating or not.
#[inline]
pub fn current() -> Option<TaskRef> {
    // SAFETY: as in `cooperating`.
    existing().and_then(|event_loop| unsafe { (*event_loop.current.get()).clone() })
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

/// Where the scheduler goes on from.
enum Next {
    Task(TaskRef),
    Base,
}

impl Loop {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let scheduler = Scheduler::new().map_err(|error| errors::from_io(py, &error))?;
        if let Ok(mut schedulers) = SCHEDULERS.lock() {
            schedulers.retain(|scheduler| scheduler.strong_count() > 0);
            schedulers.push(Arc::downgrade(&scheduler));
        }
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
            failure: UnsafeCell::new(None),
            host: UnsafeCell::new(None),
            is_main_thread,
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

    /// The adapter of the host that drives us.
    pub fn host(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: one thread, and nothing else is borrowed; cloning runs no Python code.
        unsafe { (*self.host.get()).as_ref().map(|host| host.clone_ref(py)) }
    }

    /// A host takes the loop over, or (`None`) gives it up.
    pub fn set_host(&self, host: Option<Py<PyAny>>) -> PyResult<()> {
        if host.is_some() && self.driver.get() == Driver::Native {
            return Err(PyRuntimeError::new_err(
                "aevent's native loop runs in this thread already: a host cannot take it over",
            ));
        }
        self.driver.set(if host.is_some() {
            Driver::Host
        } else {
            Driver::None
        });
        self.scheduler.set_host_has_the_thread(host.is_some());
        if let Some(task) = self.take_current() {
            // Whether it cooperates may have changed.
            self.set_current(task);
        }
        // SAFETY: as in `host`; the old value is dropped after it was replaced.
        drop(unsafe { std::mem::replace(&mut *self.host.get(), host) });
        Ok(())
    }

    /// In the child of a fork: the loop is our own from now on. The base, suspended in `tick`, will
    /// wait for events itself. True if a host drove it.
    pub fn leave_host(&self) -> bool {
        if self.driver.get() != Driver::Host {
            return false;
        }
        self.driver.set(Driver::Native);
        self.scheduler.set_host_has_the_thread(false);
        // SAFETY: as in `host`. The adapter is the parent's: leaked.
        std::mem::forget(unsafe { (*self.host.get()).take() });
        true
    }

    /// In the child of a fork by a host's task: the host's loop, whose descriptors are the parent's,
    /// must not go on. The task becomes a green thread; it gets a base of its own, since the
    /// host's greenlet must not be returned to.
    fn go_on_alone(&self, py: Python<'_>, task: &TaskRef) -> PyResult<()> {
        static BASE: raw::Definition = raw::Definition::none(c"aevent base", run_base);
        let me = stack::current();
        // SAFETY: attached; `me` is the running greenlet.
        let base = unsafe {
            let function = BASE.object();
            if function.is_null() {
                release(me);
                return Err(PyErr::fetch(py));
            }
            stack::new(function, me)
        };
        release(me);
        if base.is_null() {
            return Err(PyErr::fetch(py));
        }
        // Never given back: it is there until the process ends, which it does with the task.
        self.base.set(base);
        state(task).kind = Kind::Green;
        Ok(())
    }

    /// The task that gets a signal handler's exception.
    pub fn main(&self) -> Option<TaskRef> {
        // SAFETY: as in `host`.
        unsafe { (*self.main.get()).clone() }
    }

    /// Sets the task that gets a signal handler's exception, and returns the previous one.
    pub fn set_main(&self, task: Option<TaskRef>) -> Option<TaskRef> {
        // SAFETY: as in `host`.
        unsafe { std::mem::replace(&mut *self.main.get(), task) }
    }

    /// Makes `task` the running one.
    #[inline(always)]
    pub fn set_current(&self, task: TaskRef) {
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
            Some(task) => Next::Task(task),
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

    /// The place where the native loop blocks, and releases the interpreter for it.
    #[inline(never)]
    fn wait_for_events(&self) {
        let timeout = self.scheduler.time_to_wait();
        if timeout == Some(0) {
            return self.look();
        }
        let (fd, mut batch) = self.scheduler.begin_wait();
        // SAFETY: we are attached, or no Python code could have called us.
        let py = unsafe { Python::assume_attached() };
        let result = py.detach(|| reactor::wait(fd, &mut batch, timeout));
        let result = self.scheduler.take_in(batch, result);
        self.after_events(result);
    }

    fn after_events(&self, result: std::io::Result<()>) {
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        if let Err(error) = result {
            self.fail(errors::from_io(py, &error));
        }
        if self.is_main_thread {
            // Handlers run here with no task current, so whatever they call is the original.
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

    /// Delivers a signal handler's exception to the main task, where it parks next or is parked.
    pub fn interrupt(&self, error: PyErr) {
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
        let result;
        loop {
            match self.pick() {
                Next::Task(task) => {
                    if std::ptr::eq(Arc::as_ptr(&task), me) {
                        task.begin_run();
                        self.set_current(task);
                        return Ok(());
                    }
                    let next = state(&task);
                    if next.is_frozen() {
                        me.payload.state().frozen = stack::current();
                        result = self.resume(task);
                        break;
                    }
                    if next.kind == Kind::Host {
                        self.resume_host(task);
                        continue;
                    }
                    let target = next.take_stack().or_else(|| self.pop_idle());
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
        self.leave(&me)
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
                    return Ok(());
                }
            }
        }
        let Some(me) = self.take_current() else {
            return Ok(());
        };
        me.begin_yield();
        let pointer: *const Task<Payload> = Arc::as_ptr(&me);
        if state(&me).kind == Kind::Host {
            self.scheduler.enqueue(me.clone());
            return park_portal(py, self, me);
        }
        self.scheduler.enqueue(me);
        // SAFETY: the run queue keeps the task alive until it is resumed, and then `current` does.
        self.leave(unsafe { &*pointer })
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

    /// A stack that is ready to take the hand-off. Only for the base.
    fn stack_for_base(&self, py: Python<'_>) -> PyResult<Object> {
        if let Some(stack) = self.pop_idle() {
            return Ok(stack);
        }
        // SAFETY: the function is a valid object, the base a greenlet of this thread.
        let stack = unsafe { stack::new(stack_function(py)?, self.base.get()) };
        if stack.is_null() {
            return Err(PyErr::fetch(py));
        }
        self.stacks.set(self.stacks.get() + 1);
        Ok(stack)
    }

    /// The base runs one task, or has it run: returns when a stack switches back to the base.
    fn run_from_base(&self, py: Python<'_>, task: TaskRef) -> PyResult<()> {
        let next = state(&task);
        let result = if next.is_frozen() {
            self.resume(task)
        } else if next.kind == Kind::Host {
            self.resume_host(task);
            return Ok(());
        } else {
            let stack = match next
                .take_stack()
                .map_or_else(|| self.stack_for_base(py), Ok)
            {
                Ok(stack) => stack,
                Err(error) => {
                    finish::finish(py, self, task, Err(error));
                    return Ok(());
                }
            };
            self.set_hand_off(task);
            // SAFETY: an idle stack, or one that has not started.
            let result = unsafe { stack::switch(stack) };
            // A pooled stack gave its reference to the pool, to be taken back by `run_stack`; a new
            // one that starts takes its own.
            result
        };
        if result.is_null() {
            return Err(PyErr::fetch(py));
        }
        release(result);
        Ok(())
    }

    /// Runs tasks until `done` says so; waits for events in between. The native driver.
    pub fn run(&self, py: Python<'_>, main: &TaskRef) -> PyResult<()> {
        if self.driver.get() != Driver::None {
            return Err(PyRuntimeError::new_err(
                "aevent.run() was called in an OS thread whose loop is running already. Call the \
                 function directly, spawn it, or run it in a thread of its own.",
            ));
        }
        self.driver.set(Driver::Native);
        self.scheduler.set_host_has_the_thread(false);
        let base = stack::current();
        self.base.set(base);
        let result = loop {
            if main.is_done() {
                break Ok(());
            }
            self.stop.set(false);
            let next = match self.take_hand_off() {
                Some(task) => Next::Task(task),
                None => self.pick(),
            };
            if let Next::Task(task) = next
                && let Err(error) = self.run_from_base(py, task)
            {
                break Err(error);
            }
            // SAFETY: one thread, nothing borrowed.
            if let Some(error) = unsafe { (*self.failure.get()).take() } {
                break Err(error);
            }
        };
        self.stop.set(false);
        self.driver.set(Driver::None);
        self.base.set(null_mut());
        release(base);
        result
    }

    /// `run` shall look whether it is done.
    pub fn stop(&self) {
        if self.driver.get() == Driver::Native {
            self.stop.set(true);
        }
    }

    /// One turn on behalf of a host: takes in what has happened and runs tasks for one time slice.
    ///
    /// Returns whether more tasks are ready, in which case the host shall call again soon. When it
    /// returns false, the scheduler's descriptor becomes readable when there is something to do.
    pub fn tick(&self, py: Python<'_>) -> PyResult<bool> {
        if self.driver.get() != Driver::Host || !self.base.get().is_null() {
            return Err(PyRuntimeError::new_err(
                "tick() is for the host that drives this thread's loop, and not from inside a tick",
            ));
        }
        let base = stack::current();
        self.base.set(base);
        self.scheduler.set_host_has_the_thread(false);
        // A host's task may have called something that ends up here (trio's guest mode does).
        let outer = self.take_current();
        let mut result = self
            .scheduler
            .look()
            .map_err(|error| errors::from_io(py, &error));
        while result.is_ok() {
            let next = match self.take_hand_off() {
                Some(task) => Next::Task(task),
                None => self.pick(),
            };
            match next {
                Next::Task(task) => result = self.run_from_base(py, task),
                Next::Base => break,
            }
            // SAFETY: one thread, nothing borrowed.
            if let Some(error) = unsafe { (*self.failure.get()).take() } {
                self.stop.set(false);
                result = Err(error);
            }
        }
        self.base.set(null_mut());
        if let Some(outer) = outer {
            self.set_current(outer);
        }
        release(base);
        let more = self.scheduler.has_ready();
        self.scheduler.arm_host_timer();
        self.scheduler.set_host_has_the_thread(true);
        result.map(|()| more)
    }

    /// Runs one step of a host's coroutine on a stack of ours: see `portal`. `kept` is the stack of
    /// its earlier steps, or null. The caller is the
    /// greenlet that the host stepped the portal in, and gets the control back.
    pub fn step_portal(&self, py: Python<'_>, task: TaskRef, kept: Object) -> PyResult<()> {
        let outer = self.base.get();
        let home = stack::current();
        if outer.is_null() {
            self.base.set(home);
        }
        let stack = if kept.is_null() {
            self.stack_for_base(py)
        } else {
            Ok(kept)
        };
        if outer.is_null() {
            self.base.set(null_mut());
        }
        let stack = match stack {
            Ok(stack) => stack,
            Err(error) => {
                release(home);
                return Err(error);
            }
        };
        self.set_hand_off(task);
        // SAFETY: an idle stack, or one that has not started.
        let result = unsafe { stack::switch(stack) };
        release(home);
        if result.is_null() {
            return Err(PyErr::fetch(py));
        }
        release(result);
        Ok(())
    }

    /// Ends the idle stacks. Only when nothing runs, from outside.
    pub fn drop_idle_stacks(&self, py: Python<'_>) {
        let base = stack::current();
        while let Some(stack) = self.pop_idle() {
            self.stacks.set(self.stacks.get() - 1);
            // An idle stack without a hand-off, while the loop has no driver, returns.
            // SAFETY: an idle stack is a suspended greenlet of this thread; `base` is running.
            unsafe {
                stack::set_parent(stack, base);
                let result = stack::switch(stack);
                if result.is_null() {
                    PyErr::fetch(py).write_unraisable(py, None);
                } else {
                    ffi::Py_DECREF(result);
                }
            }
        }
        release(base);
    }
}

#[inline(never)]
fn park_portal(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> Outcome<()> {
    Ok(portal::park(py, event_loop, me)?)
}

/// Every loop there is, for descriptors that are closed in another thread than they are waited in.
static SCHEDULERS: std::sync::Mutex<Vec<std::sync::Weak<Scheduler<Payload>>>> =
    std::sync::Mutex::new(Vec::new());

/// Before `fd` is closed, by whichever thread: everybody who waits for it is woken.
pub fn close_descriptor(fd: std::os::fd::RawFd) {
    aevent_runtime::descriptor::renew(fd);
    let Ok(schedulers) = SCHEDULERS.lock() else {
        return;
    };
    // Collected first: the last reference to a scheduler may be the one dropped below.
    let living: Vec<SchedulerRef> = schedulers
        .iter()
        .filter_map(std::sync::Weak::upgrade)
        .collect();
    drop(schedulers);
    for scheduler in living {
        if scheduler.is_mine() {
            scheduler.closing(fd);
        } else {
            scheduler.closing_elsewhere(fd);
        }
    }
}

/// The Python callable that every stack runs.
fn stack_function(py: Python<'_>) -> PyResult<Object> {
    use std::sync::atomic::{AtomicPtr, Ordering};
    static FUNCTION: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());
    static DEFINITION: raw::Definition = raw::Definition::none(c"aevent stack", run_stack);
    let known = FUNCTION.load(Ordering::Acquire);
    if !known.is_null() {
        return Ok(known);
    }
    // SAFETY: attached.
    let function = unsafe { DEFINITION.object() };
    if function.is_null() {
        return Err(PyErr::fetch(py));
    }
    FUNCTION.store(function, Ordering::Release);
    Ok(function)
}

/// The base of a child that a host's task has forked; see [`Loop::go_on_alone`].
unsafe extern "C" fn run_base(_module: Object, _args: Object) -> Object {
    // SAFETY: attached: it runs as a greenlet of Python's.
    let py = unsafe { Python::assume_attached() };
    let Some(event_loop) = existing() else {
        return raw::none();
    };
    loop {
        let next = match event_loop.take_hand_off() {
            Some(task) => Next::Task(task),
            None => event_loop.pick(),
        };
        let result = match next {
            Next::Task(task) => event_loop.run_from_base(py, task),
            Next::Base => Ok(()),
        };
        // SAFETY: one thread, nothing borrowed.
        let failure = unsafe { (*event_loop.failure.get()).take() };
        if let Some(error) = result.err().or(failure) {
            finish::end_process(py, Err(error));
        }
    }
}

/// The loop of a stack. Takes the hand-off or the next task, again and again.
unsafe extern "C" fn run_stack(_module: Object, _args: Object) -> Object {
    let Some(event_loop) = existing() else {
        return raw::none();
    };
    // The reference that `stack_for_base` made.
    stack::release_current();
    let me = stack::current();
    // SAFETY: the running greenlet, which nobody but us knows yet.
    event_loop.references.set(unsafe { ffi::Py_REFCNT(me) });
    release(me);
    loop {
        let (task, handed_off) = match event_loop.take_hand_off() {
            Some(task) => (task, true),
            None => match event_loop.pick() {
                Next::Task(task) => (task, false),
                Next::Base => {
                    if !idle(event_loop, None) {
                        return raw::none();
                    }
                    continue;
                }
            },
        };
        let next = state(&task);
        if next.is_frozen() {
            if !idle(event_loop, Some(task)) {
                return raw::none();
            }
            continue;
        }
        match next.kind {
            Kind::Green => run_green(event_loop, task),
            Kind::Coroutine => {
                if let Some(target) = next.take_stack() {
                    event_loop.set_hand_off(task);
                    if !switch_idle(event_loop, target) {
                        return raw::none();
                    }
                } else if coroutine::step(event_loop, task) && !leave_kept(event_loop) {
                    return raw::none();
                }
            }
            // A host's task is handed off for a step, and comes from the run queue to be woken.
            Kind::Host if handed_off => {
                // The step is over, and the host's greenlet goes on. The stack stays with the
                // portal until its coroutine has ended.
                let (home, kept) = portal::step_on_stack(event_loop, task);
                let goes_on = if kept {
                    switch_kept(home)
                } else {
                    switch_idle(event_loop, home)
                };
                if !goes_on {
                    return raw::none();
                }
            }
            Kind::Host => event_loop.resume_host(task),
        }
    }
}

/// The running stack has nothing to do: to the pool with it, and on with `task` or the base.
/// False: it shall end.
#[inline]
fn idle(event_loop: &Loop, task: Option<TaskRef>) -> bool {
    if event_loop.idle_len() >= IDLE_STACKS {
        if let Some(task) = task {
            event_loop.set_hand_off(task);
        }
        return end_stack(event_loop);
    }
    match task {
        Some(task) => {
            let frozen = state(&task).frozen;
            task.begin_run();
            event_loop.set_current(task);
            switch_idle(event_loop, frozen)
        }
        None => switch_idle(event_loop, event_loop.base.get()),
    }
}

#[inline]
fn switch_idle(event_loop: &Loop, target: Object) -> bool {
    event_loop.push_idle(stack::current());
    // SAFETY: the target is a frozen task's greenlet, the base, or the home of a portal's step.
    let result = unsafe { stack::switch(target) };
    if result.is_null() {
        return false;
    }
    release(result);
    stack::release_current();
    // Woken with nothing to do and nobody to do it for: `drop_idle_stacks`.
    // SAFETY: one thread, nothing borrowed.
    let has_work = unsafe { (*event_loop.hand_off.get()).is_some() };
    has_work || event_loop.driver.get() != Driver::None
}

/// Leaves a stack that its portal keeps. False: the portal was dropped.
#[inline]
fn switch_kept(home: Object) -> bool {
    // SAFETY: the host's greenlet is suspended in the step.
    let result = unsafe { stack::switch(home) };
    if result.is_null() {
        // SAFETY: attached. The exception is the one that ends an abandoned greenlet.
        unsafe { ffi::PyErr_Clear() };
        return false;
    }
    release(result);
    stack::release_current();
    true
}

/// Leaves a stack that a coroutine keeps for its next step, which is then in the hand-off. False:
/// the coroutine was dropped.
#[inline(never)]
fn leave_kept(event_loop: &Loop) -> bool {
    let result = loop {
        let task = match event_loop.pick() {
            Next::Task(task) => task,
            // SAFETY: the base is suspended.
            Next::Base => break unsafe { stack::switch(event_loop.base.get()) },
        };
        let next = state(&task);
        if next.is_frozen() {
            break event_loop.resume(task);
        }
        if next.kind == Kind::Host {
            event_loop.resume_host(task);
            continue;
        }
        let target = next.take_stack();
        event_loop.set_hand_off(task);
        if let Some(target) = target {
            let me = stack::current();
            release(me);
            if target == me {
                // It is our own coroutine's turn already.
                release(target);
                return true;
            }
        }
        let target = target.or_else(|| event_loop.pop_idle());
        // SAFETY: a kept or an idle stack, or the base: suspended greenlets of this thread.
        break unsafe { stack::switch(target.unwrap_or(event_loop.base.get())) };
    };
    if result.is_null() {
        // SAFETY: attached. The exception is the one that ends an abandoned greenlet.
        unsafe { ffi::PyErr_Clear() };
        return false;
    }
    release(result);
    stack::release_current();
    true
}

#[cold]
fn end_stack(event_loop: &Loop) -> bool {
    event_loop.stacks.set(event_loop.stacks.get() - 1);
    let me = stack::current();
    // SAFETY: both are greenlets of this thread; the base is suspended in its switch and goes on
    // when we return.
    unsafe { stack::set_parent(me, event_loop.base.get()) };
    release(me);
    false
}

/// Makes the call that a green thread is for.
///
/// Its frame is under everything that the thread does, so it keeps nothing but what it needs then.
#[inline(never)]
fn run_green(event_loop: &Loop, task: TaskRef) {
    let entry = std::mem::replace(&mut state(&task).entry, Entry::None);
    task.begin_run();
    let context = state(&task).context;
    event_loop.set_current(task);
    // SAFETY: the context is the task's own and is entered nowhere else. Whatever the call switches
    // to, it comes back to this stack.
    unsafe { ffi::PyContext_Enter(context) };
    let result = match entry {
        Entry::Call {
            function,
            args,
            kwargs,
        } => {
            // SAFETY: the entry owns its references. They are given up while the task is still the
            // running one: finalizers of its arguments may block.
            unsafe {
                let result = ffi::PyObject_Call(function, args, kwargs);
                ffi::Py_DECREF(function);
                ffi::Py_DECREF(args);
                ffi::Py_XDECREF(kwargs);
                result
            }
        }
        Entry::Thread(thread) => python_thread::run(thread),
        Entry::None | Entry::Coroutine(_) => raw::none(),
    };
    finish_green(event_loop, result);
    // SAFETY: it was entered above, on this stack.
    unsafe {
        ffi::PyContext_Exit(context);
        ffi::Py_DECREF(context);
    }
}

#[inline(never)]
fn finish_green(event_loop: &Loop, result: Object) {
    // SAFETY: attached: the call has just returned to us.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: null with an exception set, or a new reference.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(Bound::unbind);
    let task = event_loop
        .take_current()
        .expect("a task is current while its function runs");
    state(&task).context = null_mut();
    finish::finish(py, event_loop, task, result);
}

/// In the child of a fork: the running task is the only one.
///
/// Everything else the loop knew is leaked: parked stacks would run their `finally` blocks in the
/// wrong process.
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    aevent_runtime::offload::Offload::global().after_fork_child();
    if let Ok(mut schedulers) = SCHEDULERS.lock() {
        // The other threads' loops do not exist here; their descriptors are the parent's.
        schedulers.retain(|scheduler| {
            scheduler.upgrade().is_some_and(|scheduler| {
                scheduler.is_mine() || {
                    std::mem::forget(scheduler);
                    false
                }
            })
        });
    }
    let Some(event_loop) = existing() else {
        return Ok(());
    };
    event_loop
        .scheduler
        .reset_after_fork()
        .map_err(|error| errors::from_io(py, &error))?;
    event_loop.generation.set(fork::generation());
    std::mem::forget(event_loop.take_hand_off());
    let driven = event_loop.driver.get() != Driver::None;
    if let Some(task) = current() {
        if state(&task).kind == Kind::Host {
            event_loop.go_on_alone(py, &task)?;
        }
        finish::adopt_after_fork(event_loop, &task);
    } else if driven {
        // Forked by a host's own code: the host's loop goes on with a scheduler that is empty.
        std::mem::forget(event_loop.set_main(None));
    }
    Ok(())
}
