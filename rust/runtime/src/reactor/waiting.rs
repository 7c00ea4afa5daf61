//! The wait for events, which borrows nothing of the reactor: the thread blocks meanwhile.

use std::io;
use std::os::fd::RawFd;

use super::Batch;

/// Waits for events on the epoll descriptor `fd`, for `timeout` nanoseconds at most (`None`: for
/// ever). Touches nothing but `batch`, so it may run while the interpreter is released.
///
/// Returns how many events there are; zero on a timeout and when a signal arrived.
pub fn wait(fd: RawFd, batch: &mut Batch, timeout: Option<u64>) -> io::Result<usize> {
    let spec = timeout.map(|nanos| libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as _,
        tv_nsec: (nanos % 1_000_000_000) as _,
    });
    let spec_pointer = spec
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref::<libc::timespec>);
    // SAFETY: the buffer is valid for as many events as are announced, and `spec` outlives the call.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            fd,
            batch.events.as_mut_ptr(),
            batch.events.len() as libc::c_int,
            spec_pointer,
            std::ptr::null::<libc::sigset_t>(),
            8usize,
        )
    };
    if count >= 0 {
        return Ok(count as usize);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(0),
        // A kernel before 5.11, or a sandbox that does not know the call.
        Some(libc::ENOSYS | libc::EPERM) => wait_milliseconds(fd, batch, timeout),
        _ => Err(error),
    }
}

fn wait_milliseconds(fd: RawFd, batch: &mut Batch, timeout: Option<u64>) -> io::Result<usize> {
    let timeout = match timeout {
        None => -1,
        Some(nanos) => nanos.div_ceil(1_000_000).min(i32::MAX as u64) as i32,
    };
    // SAFETY: as in `wait`.
    let count = unsafe {
        libc::epoll_wait(
            fd,
            batch.events.as_mut_ptr(),
            batch.events.len() as libc::c_int,
            timeout,
        )
    };
    if count >= 0 {
        return Ok(count as usize);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(0),
        _ => Err(error),
    }
}
