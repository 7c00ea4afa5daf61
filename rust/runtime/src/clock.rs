//! The scheduler's clock: nanoseconds of `CLOCK_MONOTONIC`, or of a thread's own time.
//!
//! A deadline is a plain `u64`, so that it can be compared, stored in an atomic and handed to the
//! kernel without conversion. The origin is the one of Python's `time.monotonic()`.
//!
//! For tests, an OS thread may have a time of its own, which runs faster or slower than the real one,
//! stands still, or is set forward. It belongs to the thread because schedulers do. It never goes
//! back: who leaves it sets its rate to 1, and keeps the distance. While no thread has one, asking
//! for the time costs one read of an atomic more.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// A point in time, in nanoseconds of the monotonic clock.
pub type Instant = u64;

/// The deadline that never comes.
pub const NEVER: Instant = u64::MAX;

fn read(clock: libc::clockid_t) -> Instant {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid place for the result and outlives the call.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// A thread's own time: it was `own` when the real time was `real`.
#[derive(Clone, Copy)]
struct OwnTime {
    real: Instant,
    own: Instant,
    rate: f64,
}

impl OwnTime {
    fn at(self, real: Instant) -> Instant {
        let passed = real.saturating_sub(self.real);
        if self.rate == 1.0 {
            return self.own.saturating_add(passed);
        }
        self.own.saturating_add((passed as f64 * self.rate) as u64)
    }
}

/// Whether any thread has ever had a time of its own.
static IN_USE: AtomicBool = AtomicBool::new(false);

thread_local!(static OWN: Cell<Option<OwnTime>> = const { Cell::new(None) });

/// The calling thread's time now.
#[inline]
pub fn now() -> Instant {
    let real = real();
    if IN_USE.load(Ordering::Relaxed) {
        return own_time(real);
    }
    real
}

#[cold]
#[inline(never)]
fn own_time(real: Instant) -> Instant {
    OWN.get().map_or(real, |time| time.at(real))
}

/// The time now, whatever time the calling thread has.
pub fn real() -> Instant {
    read(libc::CLOCK_MONOTONIC)
}

/// How fast the calling thread's time runs; 1 unless it was changed.
pub fn rate() -> f64 {
    if !IN_USE.load(Ordering::Relaxed) {
        return 1.0;
    }
    OWN.get().map_or(1.0, |time| time.rate)
}

/// From now on, `rate` nanoseconds of the calling thread's time pass in a real one. 0: it stands still.
pub fn set_rate(rate: f64) {
    debug_assert!(rate >= 0.0);
    let real = real();
    OWN.set(Some(OwnTime {
        real,
        own: own_time(real),
        rate,
    }));
    IN_USE.store(true, Ordering::Relaxed);
}

/// Sets the calling thread's time forward to `to`; not back.
pub fn jump_to(to: Instant) {
    let real = real();
    let own = own_time(real).max(to);
    let rate = rate();
    OWN.set(Some(OwnTime { real, own, rate }));
    IN_USE.store(true, Ordering::Relaxed);
}

/// The calling thread's time is the real one again. Only when nothing waits for a deadline of its own
/// time any more: those would be too far ahead.
pub fn give_up() {
    OWN.set(None);
}

/// How long the calling thread's time needs for `nanos`, in real nanoseconds. `None`: for ever.
pub fn in_real_time(nanos: u64) -> Option<u64> {
    if !IN_USE.load(Ordering::Relaxed) {
        return Some(nanos);
    }
    let rate = rate();
    if rate == 1.0 || nanos == 0 {
        return Some(nanos);
    }
    let real = nanos as f64 / rate;
    // Rounded up: a wait that ends early would only have to be repeated.
    (real < u64::MAX as f64).then(|| real.ceil() as u64)
}

/// When, in real time, the calling thread's time will be `deadline` at the present rate.
pub fn real_deadline(deadline: Instant) -> Instant {
    if deadline == NEVER || !IN_USE.load(Ordering::Relaxed) {
        return deadline;
    }
    let real = real();
    in_real_time(deadline.saturating_sub(own_time(real)))
        .map_or(NEVER, |nanos| real.saturating_add(nanos))
}

/// A time that advances in steps of a few milliseconds and costs a few nanoseconds to read.
///
/// It only serves to notice that a time slice is over; never compare it with a deadline.
#[cfg(target_os = "linux")]
pub fn coarse() -> Instant {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// A clock that any thread may read of the CPU time that the calling one uses; `None` if there is none.
pub fn of_this_threads_work() -> Option<libc::clockid_t> {
    #[cfg(target_os = "linux")]
    {
        let mut clock = 0;
        // SAFETY: the calling thread exists, and `clock` is a valid place for the result.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        (error == 0).then_some(clock)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// The CPU time on such a clock, in nanoseconds; `None` if its thread has ended.
pub fn work(clock: libc::clockid_t) -> Option<u64> {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid place for the result; an unknown clock is an error.
    let result = unsafe { libc::clock_gettime(clock, &mut ts) };
    (result == 0).then(|| ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}

/// The CPU time of the calling thread, in nanoseconds.
pub fn work_of_thread() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPU time of the process, in nanoseconds.
pub fn work_of_process() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// See the Linux variant; elsewhere the precise clock is cut to the same granularity.
#[cfg(not(target_os = "linux"))]
pub fn coarse() -> Instant {
    real() >> 22 << 22
}
