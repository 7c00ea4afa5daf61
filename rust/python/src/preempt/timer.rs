//! The kernel's timer that runs in the CPU time of the main OS thread, and its signal.
//!
//! A timer belongs to the process that made it: neither the child of a fork nor what is executed
//! has it. Where it cannot be had (other systems, a sandbox, too many pending signals), nobody is
//! preempted, which is nothing to fail for.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How much CPU time passes between two signals, in nanoseconds. More than a step of the coarse clock.
pub const STEP: i64 = 5_000_000;

/// What is called for a signal. It may do only what is allowed in a signal handler.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// No timer. (To the C library, 0 is one.)
const NONE: usize = usize::MAX;

/// The timer. Used in the main OS thread only.
static TIMER: AtomicUsize = AtomicUsize::new(NONE);

/// Its address goes with our signals.
static MARK: u8 = 0;

/// Whether a signal is the timer's, and not somebody else's of the same number.
///
/// # Safety
/// `info` is what the kernel has passed to the signal's handler.
pub unsafe fn is_ours(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the caller's promise; every signal of a timer has a value.
    unsafe {
        (*info).si_code == libc::SI_TIMER
            && (*info).si_value().sival_ptr == (&raw const MARK).cast_mut().cast()
    }
}

/// Has `handler` called for this signal. False: the system refuses.
pub fn install(number: i32, handler: Handler) -> bool {
    // SAFETY: the action is valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(number, &action, std::ptr::null_mut()) == 0
    }
}

/// From now on the calling thread, which is the main one, gets the signal for each [`STEP`].
pub fn begin(number: i32) {
    // A process that was forked behind the interpreter's back has a number, but no timer.
    if !set(STEP) && make(number) {
        set(STEP);
    }
}

/// No signals for the time being.
pub fn stop() {
    set(0);
}

/// No signals any more: one that is still on its way has arrived when this returns, unless the
/// thread blocks it.
pub fn end() {
    let timer = TIMER.swap(NONE, Ordering::Relaxed);
    if timer != NONE {
        // SAFETY: it was made, and is not used any more.
        unsafe { libc::timer_delete(timer as libc::timer_t) };
    }
}

/// In the child of a fork: the timer was the parent's.
pub fn forget() {
    TIMER.store(NONE, Ordering::Relaxed);
}

fn make(number: i32) -> bool {
    end();
    // SAFETY: the event is valid, and the timer a place for the result.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = number;
        event.sigev_value.sival_ptr = (&raw const MARK).cast_mut().cast();
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        if libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut timer) != 0 {
            return false;
        }
        TIMER.store(timer as usize, Ordering::Relaxed);
    }
    true
}

fn set(step: i64) -> bool {
    let timer = TIMER.load(Ordering::Relaxed);
    if timer == NONE {
        return false;
    }
    let step = libc::timespec {
        tv_sec: 0,
        tv_nsec: step,
    };
    let times = libc::itimerspec {
        it_interval: step,
        it_value: step,
    };
    // SAFETY: the times are valid; the former ones are not asked for.
    unsafe { libc::timer_settime(timer as libc::timer_t, 0, &times, std::ptr::null_mut()) == 0 }
}
