//! Preemption: a green thread that computes and calls nothing of ours does not keep the others, or
//! the host, from running.
//!
//! The kernel sends the main OS thread a real-time signal for every [`timer::STEP`] of its CPU time
//! while somebody drives its loop: an idle program gets none, and there is no helper thread. If the
//! loop has not been looked after between two of them, one green thread has had the thread to itself;
//! then the signal's handler in C has the interpreter call [`preempt`] at its next occasion, which yields
//! if the thread can be left there ([`frames`], [`c_stack`]). System calls that can be are restarted
//! after the signal; those that cannot be were not waiting, or no CPU time would have passed.
//!
//! A pending call, the other way into a computing interpreter, would not do: while one is switched
//! away from, no other is made.

mod c_stack;
mod frames;
mod timer;

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::run_loop::{self, Driver};
use crate::task::{Kind, SchedulerRef, state};

pub use frames::{is_importing, set_preemption_points};

/// How often the interpreter is asked again when it was about something that is not to be left.
const TRIES: u32 = 4;

/// After so many steps it is asked again where nobody was preempted: what is asked for is also
/// written to a host's wake-up descriptor, so it should not be often.
const RARELY: u32 = 8;

/// The signal, or 0: nobody is preempted.
static NUMBER: AtomicI32 = AtomicI32::new(0);

/// When the loop had last been looked after at the latest signal.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Above zero, nobody is preempted for the time being.
static HELD: AtomicI32 = AtomicI32::new(0);

/// How often the interpreter may still be asked again.
static TRIES_LEFT: AtomicU32 = AtomicU32::new(0);

/// Somebody's signal handler waits for the running task to be left.
static URGENT: AtomicBool = AtomicBool::new(false);

/// How many steps pass between two times that the interpreter is asked in vain, and how many of
/// them are left. Used in the main thread only.
static PAUSE: AtomicU32 = AtomicU32::new(1);
static LEFT: AtomicU32 = AtomicU32::new(1);

/// The scheduler of the main OS thread while somebody drives its loop, else null. One reference to it
/// is never given up, so that a handler that is just running finds it.
static DRIVEN: AtomicPtr<aevent_runtime::scheduler::Scheduler<crate::task::Payload>> =
    AtomicPtr::new(null_mut());

/// See `_core.pyi`.
#[pyfunction]
pub fn set_preemption(number: i32) {
    NUMBER.store(0, Ordering::SeqCst);
    if number > 0 && timer::install(number, on_signal) {
        NUMBER.store(number, Ordering::SeqCst);
        if !DRIVEN.load(Ordering::Relaxed).is_null() {
            timer::begin(number);
        }
    } else {
        timer::end();
    }
}

/// The signal's handler in C, in the main thread. It interrupts anything, even ourselves.
extern "C" fn on_signal(number: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid one.
    if unsafe { timer::is_ours(info) } {
        if NUMBER.load(Ordering::Relaxed) == number && is_to_be_asked() {
            // SAFETY: both may be called in a signal handler; the interrupted code finds its error
            // number as it was. `set_preemption(0)` comes before the interpreter's end.
            unsafe {
                let error = *libc::__errno_location();
                ffi::PyErr_SetInterruptEx(number);
                *libc::__errno_location() = error;
            }
        }
    } else {
        // Somebody else's: it does what it would have done.
        // SAFETY: both may be called in a signal handler.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
            libc::raise(number);
        }
    }
}

/// Whether somebody has computed for long who may be preempted.
fn is_to_be_asked() -> bool {
    let scheduler = DRIVEN.load(Ordering::Relaxed);
    if scheduler.is_null() || HELD.load(Ordering::Relaxed) > 0 {
        return false;
    }
    // SAFETY: see `DRIVEN`.
    let looked = unsafe { (*scheduler).looked() };
    if SEEN.swap(looked, Ordering::Relaxed) != looked || !run_loop::interrupted_is_green() {
        PAUSE.store(1, Ordering::Relaxed);
        LEFT.store(1, Ordering::Relaxed);
        return false;
    }
    let left = LEFT.load(Ordering::Relaxed);
    if left > 1 {
        LEFT.store(left - 1, Ordering::Relaxed);
        return false;
    }
    let pause = PAUSE.load(Ordering::Relaxed);
    LEFT.store(pause, Ordering::Relaxed);
    PAUSE.store((pause * 2).min(RARELY), Ordering::Relaxed);
    TRIES_LEFT.store(TRIES, Ordering::Relaxed);
    true
}

/// See `_core.pyi`.
#[pyfunction]
pub fn hold_preemption(delta: i32) {
    HELD.fetch_add(delta, Ordering::Relaxed);
}

/// The loop of the main OS thread, which calls this, has got a driver. Other threads' loops are not
/// watched: the interpreter calls signal handlers in the main thread only.
pub fn watch(scheduler: &SchedulerRef) {
    let pointer = Arc::as_ptr(scheduler).cast_mut();
    static KNOWN: AtomicPtr<aevent_runtime::scheduler::Scheduler<crate::task::Payload>> =
        AtomicPtr::new(null_mut());
    if KNOWN.swap(pointer, Ordering::Relaxed) != pointer {
        // Once in the life of a process, and once more in a child that another thread has forked.
        std::mem::forget(scheduler.clone());
    }
    DRIVEN.store(pointer, Ordering::Relaxed);
    let number = NUMBER.load(Ordering::Relaxed);
    if number > 0 {
        timer::begin(number);
    }
}

/// Nobody drives the loop any more.
pub fn rest() {
    DRIVEN.store(null_mut(), Ordering::Relaxed);
    timer::stop();
}

/// In the child of a fork, in its only thread: timers are the parent's.
pub fn after_fork_in_child(scheduler: &SchedulerRef, driven: bool) {
    timer::forget();
    if driven {
        watch(scheduler);
    } else {
        DRIVEN.store(null_mut(), Ordering::Relaxed);
    }
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (_number, frame, /))]
pub fn preempt(py: Python<'_>, _number: i32, frame: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(event_loop) =
        run_loop::existing().filter(|event_loop| event_loop.driver() != Driver::None)
    else {
        return Ok(());
    };
    let urgent = URGENT.swap(false, Ordering::Relaxed);
    if !urgent && event_loop.scheduler.looked() != SEEN.load(Ordering::Relaxed) {
        return Ok(());
    }
    match may_be_left(frame) {
        Ok(()) => {
            PAUSE.store(1, Ordering::Relaxed);
            LEFT.store(1, Ordering::Relaxed);
            event_loop.yield_now(py)?;
        }
        Err(Obstacle::Here) => {
            let left = TRIES_LEFT.load(Ordering::Relaxed);
            if left > 0 {
                TRIES_LEFT.store(left - 1, Ordering::Relaxed);
                URGENT.store(urgent, Ordering::Relaxed);
                ask();
            }
        }
        Err(Obstacle::Elsewhere) => {}
    }
    Ok(())
}

/// Has the interpreter call [`preempt`] at its next occasion.
fn ask() {
    let number = NUMBER.load(Ordering::Relaxed);
    if number > 0 && HELD.load(Ordering::Relaxed) <= 0 {
        // SAFETY: may be called from anywhere; the number is `preempt`'s.
        unsafe { ffi::PyErr_SetInterruptEx(number) };
    }
}

/// The running task cannot be left here, but shall be as soon as it can.
pub fn ask_urgently() {
    URGENT.store(true, Ordering::Relaxed);
    TRIES_LEFT.store(TRIES, Ordering::Relaxed);
    ask();
}

/// Why the running task cannot be left.
pub enum Obstacle {
    /// By what it is doing at the moment; soon it may be possible.
    Here,
    /// By who it is, or what has called it.
    Elsewhere,
}

/// Whether the running task, which the interpreter has interrupted in `frame`, is a green thread that
/// can be left there, as a real thread could.
///
/// A coroutine counts on running until it awaits.
pub fn may_be_left(frame: &Bound<'_, PyAny>) -> Result<(), Obstacle> {
    if !run_loop::cooperating().is_some_and(|task| state(task).kind == Kind::Green) {
        return Err(Obstacle::Elsewhere);
    }
    if frame.is_none()
        || frames::is_ours(frame)
        || !frames::is_between_instructions(frame).unwrap_or(false)
    {
        return Err(Obstacle::Here);
    }
    if !c_stack::is_the_interpreters() || !frames::callers_can_be_left(frame).unwrap_or(false) {
        return Err(Obstacle::Elsewhere);
    }
    Ok(())
}
