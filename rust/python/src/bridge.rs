//! "Park this task until that future is done": how everything that is not hot is waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use pyo3::prelude::*;

use crate::wait;

/// Waits for `future` as whoever the caller is, and returns what it made: the running task parks,
/// an OS thread blocks with the interpreter released.
///
/// `Err`: cancelled, interrupted, or an exception that the host threw in. The future was dropped
/// then, so dropping is how it learns that nobody waits any more. It is polled and dropped with the
/// interpreter attached, always by the calling thread.
///
/// The future is boxed because it must stay where it is while others know its address, and the
/// caller's C stack does not: it is copied away while the task is parked, and another task's frames
/// lie there when a list node or a lock inside the future is reached from elsewhere. `Pin` could not
/// tell: a future pinned to the stack counts as pinned.
pub fn park_on<T>(
    py: Python<'_>,
    mut future: Pin<Box<dyn Future<Output = T> + Send>>,
) -> PyResult<T> {
    let mut output = None;
    wait::wait_until(py, NEVER, false, |cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => {
            output = Some(value);
            Poll::Ready(())
        }
        Poll::Pending => Poll::Pending,
    })?;
    Ok(output.expect("a wait without a deadline ends when its future is ready"))
}
