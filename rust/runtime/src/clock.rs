//! The scheduler's clock: nanoseconds of `CLOCK_MONOTONIC`.
//!
//! A deadline is a plain `u64`, so that it can be compared, stored in an atomic and handed to the
//! kernel without conversion. The origin is the one of Python's `time.monotonic()`.

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

/// The time now.
pub fn now() -> Instant {
    read(libc::CLOCK_MONOTONIC)
}

/// A time that advances in steps of a few milliseconds and costs a few nanoseconds to read.
///
/// It only serves to notice that a time slice is over; never compare it with a deadline.
#[cfg(target_os = "linux")]
pub fn coarse() -> Instant {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// See the Linux variant; elsewhere the precise clock is cut to the same granularity.
#[cfg(not(target_os = "linux"))]
pub fn coarse() -> Instant {
    now() >> 22 << 22
}
