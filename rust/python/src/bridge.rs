//! "Park this task until that future is done": how everything that is not hot is waited for.
//!
//! A new kind of wait is a future. What it waits with is [`Scheduler::ready`] for a descriptor,
//! [`Scheduler::until`] for a time, `Offload` for a call that blocks, and the queues and locks of `wait_queue`.
//! Here is decided who polls it:
//!
//! - **the waiter** ([`park_on`], [`park_on_until`]), if the future is ready when it is woken for the first time:
//!   an offloaded call, the end of a child, the opening of a FIFO. The loop would have to wake the waiter after
//!   having been woken itself (some 1.5 µs of 22 for an offloaded call), and would drop a future that is given
//!   up in its next look only: the thread that opens a FIFO is to be let go at once. In an OS thread that
//!   runs no loop there is nobody else.
//! - **the loop** ([`park_on_spawned`], or `Scheduler::spawn` for what nobody or everybody waits for), if the future
//!   takes several steps, or goes on without who began it: a file lock, which is tried again and again (2 µs
//!   each, where switching to the task took 4), and a question about children that several have.
//!
//! What is hot and has one thing to wait for, a descriptor above all, needs no future: `wait` and `poll`.
//!
//! [`Scheduler::ready`]: aevent_runtime::scheduler::Scheduler::ready
//! [`Scheduler::until`]: aevent_runtime::scheduler::Scheduler::until

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use pyo3::prelude::*;

use crate::run_loop::Loop;
use crate::task::SchedulerRef;
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
pub fn park_on<T>(py: Python<'_>, future: Pin<Box<dyn Future<Output = T> + '_>>) -> PyResult<T> {
    let output = park_on_until(py, NEVER, future)?;
    Ok(output.expect("a wait without a deadline ends when its future is ready"))
}

/// The same for as long as until `deadline`: `None` then.
pub fn park_on_until<T>(
    py: Python<'_>,
    deadline: u64,
    mut future: Pin<Box<dyn Future<Output = T> + '_>>,
) -> PyResult<Option<T>> {
    let mut output = None;
    wait::wait_until(py, deadline, false, |cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => {
            output = Some(value);
            Poll::Ready(())
        }
        Poll::Pending => Poll::Pending,
    })?;
    Ok(output)
}

/// Has the loop of the running task poll `future`, and waits for it as [`park_on`] does.
///
/// If the wait ends early the future is dropped in the loop's next look. If it was done already, what it
/// has made is dropped at once: something that has to be given back gives itself back.
pub fn park_on_spawned<T: Send + 'static>(
    py: Python<'_>,
    event_loop: &Loop,
    future: impl Future<Output = T> + Send + 'static,
) -> PyResult<T> {
    let handle = event_loop.scheduler.spawn(future);
    park_on(py, Box::pin(handle))
}

/// As long as it lives, a test's clock does not jump ahead of the work that is waited for, which is done
/// elsewhere.
pub struct AtWork(SchedulerRef);

impl AtWork {
    /// It begins.
    pub fn begin(event_loop: &Loop) -> Self {
        event_loop.scheduler.count_work(true);
        AtWork(event_loop.scheduler.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.count_work(false);
    }
}

/// Drops its content attached to the interpreter, wherever that happens; leaks it when there is no
/// interpreter any more. For futures that hold objects, and jobs: a future is dropped by the loop, attached, but
/// what is left when the OS thread ends is not.
pub struct Attached<T>(Option<T>);

impl<T> Attached<T> {
    /// Something that is there, or nothing.
    pub fn new(content: Option<T>) -> Self {
        Attached(content)
    }

    /// What is in it, which is the caller's from then on.
    pub fn take(&mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Drop for Attached<T> {
    fn drop(&mut self) {
        let mut content = self.0.take();
        if content.is_some() && Python::try_attach(|_py| drop(content.take())).is_none() {
            std::mem::forget(content);
        }
    }
}
