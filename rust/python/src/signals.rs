//! Signal handlers are the main task's, as they are the main thread's in CPython.
//!
//! The interpreter calls the handlers of Python in whatever runs on the main OS thread when a signal
//! is noticed: some green thread, a host's own code, the scheduler. [`deliver_signal`] is what it is
//! given instead of a program's handler. In the main task it calls the handler right there.
//! Elsewhere it notes the signal and unparks the main task, which calls the handler where it is
//! parked ([`run_postponed`]): with its identity, its context and its frame, free to park in it, and
//! to be left by what it raises. If it raises nothing, the wait goes on with the time that is left,
//! as PEP 475 wants it for system calls.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use aevent_runtime::task::Task;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::{self, Outcome};
use crate::preempt;
use crate::run_loop::{self, Driver, Loop};
use crate::task::{Kind, Payload, TaskRef, state};
use crate::wait;

/// One more than the largest number of a signal.
const NUMBERS: usize = 65;

type Slot = Option<Py<PyAny>>;

/// The program's handlers, by number: what [`deliver_signal`] stands for.
static HANDLERS: Mutex<[Slot; NUMBERS]> = Mutex::new([const { None }; NUMBERS]);

/// Gets the exception of a handler that was called while there was no main task.
static FAILED: Mutex<Slot> = Mutex::new(None);

/// The signals of one loop.
pub struct Signals {
    /// A bit for each signal whose handler the main task has still to call.
    postponed: Cell<u128>,
    /// How many handlers have been called.
    handled: Cell<u64>,
    /// Who waits for that: `signal.pause`.
    waiters: Arc<WaitQueue>,
}

impl Signals {
    /// None so far.
    pub fn new() -> Self {
        Self {
            postponed: Cell::new(0),
            handled: Cell::new(0),
            waiters: Arc::new(WaitQueue::new()),
        }
    }

    /// Whether the main task has handlers to call.
    #[inline(always)]
    pub fn are_postponed(&self) -> bool {
        self.postponed.get() != 0
    }

    /// In the child of a fork: signals that came before are the parent's.
    pub fn forget_postponed(&self) {
        self.postponed.set(0);
    }

    /// The postponed signal with the lowest number; CPython's order.
    fn take(&self) -> Option<usize> {
        let postponed = self.postponed.get();
        if postponed == 0 {
            return None;
        }
        self.postponed.set(postponed & (postponed - 1));
        Some(postponed.trailing_zeros() as usize)
    }

    /// The main task cannot call the handlers any more, or not now: the interpreter shall notice the
    /// signals again.
    pub fn notice_again(&self) {
        while let Some(number) = self.take() {
            // SAFETY: may be called from anywhere; a number without a handler is ignored.
            unsafe { ffi::PyErr_SetInterruptEx(number as _) };
        }
    }
}

fn slot_of(py: Python<'_>, number: usize) -> Slot {
    let handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
    Some(handlers.get(number)?.as_ref()?.clone_ref(py))
}

/// Calls the program's handler, if there still is one.
fn call(
    py: Python<'_>,
    event_loop: Option<&Loop>,
    number: usize,
    frame: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let Some(handler) = slot_of(py, number) else {
        return Ok(());
    };
    let result = handler.call1(py, (number, frame));
    if let Some(event_loop) = event_loop {
        let signals = &event_loop.signals;
        signals.handled.set(signals.handled.get() + 1);
        signals.waiters.notify_all();
    }
    result.map(drop)
}

/// The main task goes on: it calls the handlers that were postponed.
///
/// `Err`: one has raised.
#[cold]
#[inline(never)]
pub fn run_postponed(event_loop: &Loop, me: &Task<Payload>) -> Outcome<()> {
    let main = event_loop.main();
    if !main.is_some_and(|main| std::ptr::eq(Arc::as_ptr(&main), me)) {
        return Ok(());
    }
    // SAFETY: attached: a task goes on.
    let py = unsafe { Python::assume_attached() };
    while let Some(number) = event_loop.signals.take() {
        // SAFETY: attached; a borrowed reference, or null outside Python code.
        let frame = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) };
        let frame = frame.unwrap_or_else(|| py.None().into_bound(py));
        if let Err(error) = call(py, Some(event_loop), number, &frame) {
            event_loop.signals.notice_again();
            return Err(error.into());
        }
    }
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (number, frame, /))]
pub fn deliver_signal(py: Python<'_>, number: usize, frame: &Bound<'_, PyAny>) -> PyResult<()> {
    let event_loop = run_loop::existing();
    let Some(event_loop) = event_loop.filter(|event_loop| event_loop.driver() != Driver::None)
    else {
        return call(py, event_loop, number, frame);
    };
    let current = run_loop::current();
    let Some(main) = event_loop.main().filter(|main| !main.is_done()) else {
        return call_without_main(py, event_loop, number, frame, current.as_ref());
    };
    if let Some(current) = &current
        && Arc::ptr_eq(current, &main)
    {
        return call(py, Some(event_loop), number, frame);
    }
    let signals = &event_loop.signals;
    signals.postponed.set(signals.postponed.get() | 1 << number);
    main.unpark();
    // The running task's next patched call lets others run, whether or not it waits.
    event_loop.scheduler.notify();
    // A green thread that computes is preempted, as a real one would be. Others count on not being:
    // a coroutine until it awaits, our own code until it parks.
    match preempt::may_be_left(frame) {
        Ok(()) => event_loop.yield_now(py)?,
        Err(preempt::Obstacle::Here) => preempt::ask_urgently(),
        Err(preempt::Obstacle::Elsewhere) => {}
    }
    Ok(())
}

/// There is a host's main task only, or the main task has ended: the handler is called here and
/// now, as the main thread's and outside of any task, unless it is a host's task that runs.
fn call_without_main(
    py: Python<'_>,
    event_loop: &Loop,
    number: usize,
    frame: &Bound<'_, PyAny>,
    current: Option<&TaskRef>,
) -> PyResult<()> {
    let result = if current.is_some_and(|task| state(task).kind == Kind::Host) {
        call(py, Some(event_loop), number, frame)
    } else {
        let outer = event_loop.take_current();
        let result = call(py, Some(event_loop), number, frame);
        if let Some(outer) = outer {
            event_loop.set_current(outer);
        }
        result
    };
    let Err(error) = result else { return Ok(()) };
    let failed = FAILED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .map(|failed| failed.clone_ref(py));
    match failed {
        Some(failed) if failed.call1(py, (error.value(py),))?.is_truthy(py)? => Ok(()),
        _ => Err(error),
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn set_signal_handler(number: usize, handler: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    let mut handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(handlers.get_mut(number)?, handler)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn signal_handler(py: Python<'_>, number: usize) -> Option<Py<PyAny>> {
    slot_of(py, number)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn on_handler_failure(function: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *failed, function)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn wait_for_handler(py: Python<'_>) -> PyResult<()> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("signal.pause()"));
    };
    let task = task.clone();
    let signals = &event_loop.signals;
    let before = signals.handled.get();
    let mut waiter = signals.waiters.listen();
    wait::park_until(py, event_loop, &task, NEVER, false, |cx| {
        while signals.handled.get() == before {
            if waiter.poll(cx).is_pending() {
                return Poll::Pending;
            }
            waiter = signals.waiters.listen();
        }
        Poll::Ready(())
    })?;
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
pub fn open_signalfd(py: Python<'_>, numbers: Vec<i32>) -> PyResult<i32> {
    // SAFETY: the set is valid for the calls, which fill it in and read it.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for number in numbers {
            libc::sigaddset(&mut set, number);
        }
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(errors::from_io(py, &std::io::Error::last_os_error()));
    }
    Ok(fd)
}
