//! Preemption: a green thread that computes and calls nothing of ours does not keep the others, or
//! the host, from running.
//!
//! A helper thread that knows nothing of Python sleeps in the CPU time of the main OS thread, so it
//! wakes for every [`STEP`] of computing and not at all while that waits. If the loop has not been
//! looked after for that long, one task has had the thread to itself: the helper sends it a signal that
//! nobody else uses, and the interpreter calls [`preempt`] there. System calls that can be are
//! restarted after it.
//! A pending call, the other way into a computing interpreter, would not do: while one is switched
//! away from, no other is made.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::offload;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::run_loop::{self, Driver};
use crate::signals;
use crate::task::{Kind, SchedulerRef, state};

/// How much CPU time passes between two questions.
const STEP: Duration = Duration::from_millis(10);

/// A task that has run for so long without anybody having looked is preempted. Less than [`STEP`],
/// since the clock that tells it is coarse.
const LONG: u64 = 6_000_000;

/// How often the interpreter is asked again when it was about something that is not to be left.
const TRIES: u32 = 4;

/// What stands for the interruption, or 0: nobody is preempted.
static NUMBER: AtomicI32 = AtomicI32::new(0);

/// Above zero, nobody is preempted for the time being.
static HELD: AtomicI32 = AtomicI32::new(0);

/// How often the interpreter may still be asked again.
static TRIES_LEFT: AtomicU32 = AtomicU32::new(0);

/// The instructions at which a task may be left, by their numbers: those that jump back or begin a
/// function. At a call, a C function may have asked for signals while it holds a lock of its own.
static POINTS: Mutex<[bool; 256]> = Mutex::new([false; 256]);

/// Which helper is the present one; the others end.
static HELPER: AtomicU32 = AtomicU32::new(0);

/// Whose loop it looks at, to be compared only.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

/// Whether that loop has a driver.
static DRIVEN: AtomicBool = AtomicBool::new(false);

/// The signal was sent by the helper.
static SENT: AtomicBool = AtomicBool::new(false);

/// The helper is about to ask the interpreter, which must be there for that.
static ASKING: AtomicBool = AtomicBool::new(false);

/// Whether [`preempt`] has preempted somebody since the helper asked.
static OBEYED: AtomicBool = AtomicBool::new(false);

/// After this many steps the helper asks again where nobody was to be preempted. What is asked for
/// is also written to the host's wake-up descriptor, so it should not be often.
const RARELY: u32 = 32;

/// See `_core.pyi`.
#[pyfunction]
pub fn set_preemption(number: i32, points: Vec<u8>) {
    NUMBER.store(0, Ordering::SeqCst);
    wait_until_unasked();
    let mut known = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
    for point in points {
        known[usize::from(point)] = true;
    }
    drop(known);
    if number > 0 {
        // SAFETY: the action is valid, and its handler does only what a signal handler may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(number, &action, std::ptr::null_mut());
        }
        NUMBER.store(number, Ordering::SeqCst);
    }
}

/// The helper asks nothing any more, and what it has asked for has arrived.
fn wait_until_unasked() {
    while ASKING.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    // A signal that is pending is delivered when a system call returns.
    std::thread::yield_now();
}

/// The signal's handler in C, in the main thread: from other threads the interpreter can be told of
/// signals, but it does not look for them before something else makes it.
extern "C" fn on_signal(number: i32) {
    if SENT.swap(false, Ordering::Relaxed) {
        // SAFETY: both may be called in a signal handler; the interrupted code finds its error number
        // as it was. `end_preemption` comes before the interpreter's end.
        unsafe {
            let error = *libc::__errno_location();
            ffi::PyErr_SetInterruptEx(number);
            *libc::__errno_location() = error;
        }
    } else {
        // Not ours: it does what it would have done.
        // SAFETY: as above.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
            libc::raise(number);
        }
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn hold_preemption(delta: i32) {
    HELD.fetch_add(delta, Ordering::Relaxed);
}

/// See `_core.pyi`.
#[pyfunction]
pub fn end_preemption() {
    NUMBER.store(0, Ordering::SeqCst);
    HELPER.fetch_add(1, Ordering::SeqCst);
    WATCHED.store(0, Ordering::Relaxed);
    wait_until_unasked();
}

/// The loop of the main OS thread, which calls this, has got a driver. Other threads' loops are not
/// watched: the interpreter can be asked to call something in the main thread only.
pub fn watch(scheduler: &SchedulerRef) {
    if NUMBER.load(Ordering::Relaxed) == 0 {
        return;
    }
    DRIVEN.store(true, Ordering::Relaxed);
    let address = Arc::as_ptr(scheduler) as usize;
    if WATCHED.swap(address, Ordering::Relaxed) != address {
        start(scheduler.clone());
    }
}

/// Nobody drives the loop any more.
pub fn rest() {
    DRIVEN.store(false, Ordering::Relaxed);
}

/// In the child of a fork, in its only thread: the helper is the parent's.
pub fn after_fork_in_child(scheduler: &SchedulerRef) {
    ASKING.store(false, Ordering::Relaxed);
    WATCHED.store(0, Ordering::Relaxed);
    if DRIVEN.load(Ordering::Relaxed) {
        watch(scheduler);
    }
}

fn start(scheduler: SchedulerRef) {
    let helper = HELPER.fetch_add(1, Ordering::SeqCst) + 1;
    let clock = cpu_clock();
    // SAFETY: takes nothing.
    let main = MainThread(unsafe { libc::pthread_self() });
    // Without a helper nobody is preempted, which is nothing to fail for.
    let _ = offload::spawn_helper("aevent-preempt", move || {
        help(helper, &scheduler, clock, &main);
    });
}

struct MainThread(libc::pthread_t);

// SAFETY: names a thread, which any other may send a signal to.
unsafe impl Send for MainThread {}

/// The life of the helper.
fn help(helper: u32, scheduler: &SchedulerRef, clock: Clock, main: &MainThread) {
    let mut seen = NEVER;
    // How many steps it waits between two times that it asks in vain, and how many are left.
    let mut pause = 1;
    let mut left = 1;
    while HELPER.load(Ordering::Relaxed) == helper {
        sleep(clock);
        let looked = scheduler.looked();
        if looked != seen || OBEYED.swap(false, Ordering::Relaxed) {
            seen = looked;
            (pause, left) = (1, 1);
        }
        if !DRIVEN.load(Ordering::Relaxed)
            || HELD.load(Ordering::Relaxed) > 0
            || clock::coarse().saturating_sub(looked) < LONG
        {
            continue;
        }
        left -= 1;
        if left == 0 {
            TRIES_LEFT.store(TRIES, Ordering::Relaxed);
            ASKING.store(true, Ordering::SeqCst);
            if HELPER.load(Ordering::SeqCst) == helper {
                let number = NUMBER.load(Ordering::SeqCst);
                if number > 0 {
                    SENT.store(true, Ordering::Relaxed);
                    // SAFETY: the main thread lives as long as the process does.
                    unsafe { libc::pthread_kill(main.0, number) };
                }
            }
            ASKING.store(false, Ordering::SeqCst);
            left = pause;
            pause = (pause * 2).min(RARELY);
        }
    }
}

#[cfg(target_os = "linux")]
type Clock = libc::clockid_t;
#[cfg(not(target_os = "linux"))]
type Clock = ();

/// The clock that runs while the calling thread computes.
#[cfg(target_os = "linux")]
fn cpu_clock() -> Clock {
    let mut clock = libc::CLOCK_MONOTONIC;
    // SAFETY: the calling thread exists; the clock is filled in, or left alone.
    unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    clock
}

/// Elsewhere one thread cannot sleep in another's time.
#[cfg(not(target_os = "linux"))]
fn cpu_clock() {}

#[cfg(target_os = "linux")]
fn sleep(clock: libc::clockid_t) {
    let step = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // SAFETY: the time is valid, and what is left of it is not asked for.
    if unsafe { libc::clock_nanosleep(clock, 0, &step, std::ptr::null_mut()) } != 0 {
        std::thread::sleep(STEP);
    }
}

#[cfg(not(target_os = "linux"))]
fn sleep((): ()) {
    std::thread::sleep(STEP);
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (number, frame, /))]
pub fn preempt(py: Python<'_>, number: i32, frame: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(event_loop) =
        run_loop::existing().filter(|event_loop| event_loop.driver() != Driver::None)
    else {
        return Ok(());
    };
    // A coroutine counts on running until it awaits, and who runs an event loop on being its only
    // user.
    let may_be_left = run_loop::cooperating()
        .is_some_and(|task| state(task).kind == Kind::Green && state(task).running_loop.is_null());
    if !may_be_left || clock::coarse().saturating_sub(event_loop.scheduler.looked()) < LONG {
        return Ok(());
    }
    if frame.is_none() || signals::is_ours(frame) || !is_at_point(frame).unwrap_or(false) {
        let left = TRIES_LEFT.load(Ordering::Relaxed);
        if left > 0 {
            TRIES_LEFT.store(left - 1, Ordering::Relaxed);
            // SAFETY: attached, in the main thread; the number is the handler's.
            unsafe { ffi::PyErr_SetInterruptEx(number) };
        }
        return Ok(());
    }
    OBEYED.store(true, Ordering::Relaxed);
    event_loop.yield_now(py)?;
    Ok(())
}

/// Whether the interpreter is between two instructions in `frame`, and not in a call.
fn is_at_point(frame: &Bound<'_, PyAny>) -> PyResult<bool> {
    let at: isize = frame.getattr("f_lasti")?.extract()?;
    let Ok(at) = usize::try_from(at) else {
        // Before the first one.
        return Ok(true);
    };
    let code = frame.getattr("f_code")?.getattr("co_code")?;
    let code: &[u8] = code.extract()?;
    let instruction = code
        .get(at)
        .ok_or_else(|| PyRuntimeError::new_err("no such instruction"))?;
    let points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(points[usize::from(*instruction)])
}
