//! Waiting, once for everybody: tasks park, OS threads block with the interpreter released, and
//! coroutines (native ones, and those of hosts) poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::task::Task;
use aevent_runtime::wait_queue::{WaitQueue, Waiter};
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::errors::{self, Outcome};
use crate::raw;
use crate::run_loop::{self, Loop};
use crate::stack::Object;
use crate::task::{Payload, TaskRef, state};
use crate::waker::HostWaker;

/// A timeout in seconds as a deadline.
///
/// Rounded up: who asks for a little time again and again, until a deadline in seconds has come, must
/// not be told that it is over when it has not passed. A test's clock may stand still meanwhile.
pub fn deadline_after(seconds: f64) -> u64 {
    if seconds.is_nan() || seconds <= 0.0 {
        return clock::now();
    }
    let nanos = seconds * 1e9;
    if nanos >= (u64::MAX / 2) as f64 {
        return NEVER;
    }
    clock::now().saturating_add(nanos.ceil() as u64)
}

/// Raises what waits for the running task: an interrupt, or its cancellation.
#[inline(always)]
pub fn check(task: &TaskRef) -> Outcome<()> {
    let state = state(task);
    if let Some(scope) = &state.scope
        && scope.is_cancelled()
    {
        return Err(errors::cancelled_in(scope).into());
    }
    if state.interrupt.is_some() {
        return Err(take_interrupt(task).into());
    }
    Ok(())
}

/// Raises what waits for the running task, other than its cancellation.
#[inline(always)]
pub fn check_interrupt(task: &Task<Payload>) -> Outcome<()> {
    if task.payload.state().interrupt.is_some() {
        return Err(take_interrupt(task).into());
    }
    Ok(())
}

/// Whether [`check`] would raise.
#[inline(always)]
pub fn is_to_raise(task: &Task<Payload>) -> bool {
    let state = task.payload.state();
    state.scope.as_ref().is_some_and(Scope::is_cancelled) || state.interrupt.is_some()
}

/// Sets the exception that [`check`] would raise. Always null.
#[cold]
#[inline(never)]
pub fn raise_in(task: &Task<Payload>) -> Object {
    let state = task.payload.state();
    let error = match &state.scope {
        Some(scope) if scope.is_cancelled() => errors::cancelled_in(scope),
        _ => take_interrupt(task),
    };
    raw::give(Err(error.into()))
}

#[cold]
fn take_interrupt(task: &Task<Payload>) -> PyErr {
    task.payload
        .state()
        .interrupt
        .take()
        .unwrap_or_else(errors::cancelled)
}

/// Parks `task`, the running one, until `poll` is ready, and returns true; false at `deadline`.
///
/// `poll` is called again after each unpark and must have the waker of its context woken when its
/// answer changes. With `shielded`, neither cancellation nor an interrupt ends the wait.
/// `Err`: cancelled, interrupted, or an exception that the host threw in. `poll` is then to be
/// cancelled by the caller.
#[inline]
pub fn park_until(
    py: Python<'_>,
    event_loop: &Loop,
    task: &TaskRef,
    deadline: u64,
    shielded: bool,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Outcome<bool> {
    let waker = task.waker_ref();
    let mut cx = Context::from_waker(&waker);
    let mut timer = None;
    let result = loop {
        if poll(&mut cx).is_ready() {
            break Ok(true);
        }
        if !shielded && let Err(error) = check(task) {
            break Err(error);
        }
        if deadline != NEVER {
            if clock::now() >= deadline {
                break Ok(false);
            }
            if timer.is_none() {
                timer = Some(event_loop.scheduler.unpark_at(deadline, task.clone()));
            }
        }
        match event_loop.park(py) {
            Ok(()) => {}
            // Whatever the host threw: it is raised once the wait is over.
            Err(raised) if shielded => state(task).interrupt = Some(raised.into()),
            Err(error) => break Err(error),
        }
    };
    if let Some(timer) = timer {
        event_loop.scheduler.forget_deadline(timer);
    }
    result
}

/// Blocks an OS thread that is in no task. Wakes for signals, as CPython's lock does.
struct ThreadParker {
    word: AtomicU32,
}

impl ThreadParker {
    /// Sleeps until it is woken, a signal arrives or `timeout` nanoseconds are over.
    fn park(&self, timeout: Option<u64>) {
        let spec = timeout.map(|nanos| libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as _,
            tv_nsec: (nanos % 1_000_000_000) as _,
        });
        let pointer = spec
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref::<libc::timespec>);
        // SAFETY: the word and the timeout are valid during the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                0u32,
                pointer,
            )
        };
    }
}

impl Wake for ThreadParker {
    fn wake(self: Arc<Self>) {
        self.word.store(1, Ordering::Release);
        // SAFETY: the word is valid as long as `self`.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1u32,
            )
        };
    }
}

/// Blocks the OS thread, with the interpreter released, until `poll` is ready (true) or `deadline`
/// (false). `Err`: a signal handler raised.
pub fn block_until(
    py: Python<'_>,
    deadline: u64,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> PyResult<bool> {
    let parker = Arc::new(ThreadParker {
        word: AtomicU32::new(0),
    });
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    // A thread that blocks does so in real time, whatever time its tasks have.
    let deadline = match deadline {
        NEVER => NEVER,
        _ => clock::real().saturating_add(deadline.saturating_sub(clock::now())),
    };
    loop {
        if poll(&mut cx).is_ready() {
            return Ok(true);
        }
        let timeout = if deadline == NEVER {
            None
        } else {
            let now = clock::real();
            if now >= deadline {
                return Ok(false);
            }
            Some(deadline - now)
        };
        py.detach(|| parker.park(timeout));
        parker.word.store(0, Ordering::Release);
        // SAFETY: attached. Does nothing outside the main thread.
        if unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Err(PyErr::fetch(py));
        }
    }
}

/// Waits as whoever the caller is: the running task parks, an OS thread blocks.
#[inline]
pub fn wait_until(
    py: Python<'_>,
    deadline: u64,
    shielded: bool,
    poll: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> PyResult<bool> {
    match run_loop::cooperating() {
        Some(task) => {
            let task = task.clone();
            let event_loop = run_loop::existing().expect("a task runs on a loop");
            Ok(park_until(py, event_loop, &task, deadline, shielded, poll)?)
        }
        None => block_until(py, deadline, poll),
    }
}

/// Something that becomes true and then tells a wait queue.
pub trait Source: Send + Sync {
    /// Whether the wait is over. Called with the interpreter attached.
    fn is_ready(&self) -> bool;
    /// Who is told when the answer may have changed.
    fn queue(&self) -> Arc<WaitQueue>;
}

/// Something that a [`Wait`] waits for.
pub trait Pollable: Send + Sync {
    /// Ready, or the context's waker will be woken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// The same for something that has to know the task that is to be unparked.
    fn poll_for(&mut self, task: Option<&TaskRef>, cx: &mut Context<'_>) -> Poll<()> {
        let _ = task;
        self.poll(cx)
    }
    /// What the wait was for, asked once, when it is ready.
    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.None())
    }
    /// The wait is given up: what was handed over meanwhile is passed on.
    fn cancel(&mut self);
}

struct SourceWait {
    source: Box<dyn Source>,
    waiter: Option<Waiter>,
}

impl Pollable for SourceWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.source.is_ready() {
                self.waiter = None;
                return Poll::Ready(());
            }
            let waiter = self
                .waiter
                .get_or_insert_with(|| self.source.queue().listen());
            if self.source.is_ready() {
                continue;
            }
            if waiter.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.waiter = None;
        }
    }

    fn cancel(&mut self) {
        self.waiter = None;
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn shielded_checkpoint() -> Wait {
    let mut wait = Wait::new(Box::new(Nothing));
    wait.checkpoint = Checkpoint::Shielded;
    wait
}

/// What need not be waited for.
struct Nothing;

impl Pollable for Nothing {
    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn cancel(&mut self) {}
}

/// One wait of an async task: an awaitable for native tasks, polled by the adapters for those of
/// hosts. Also usable synchronously, with `block()`.
#[pyclass(module = "aevent._core")]
pub struct Wait {
    target: Option<Box<dyn Pollable>>,
    /// What it was for, from its end until somebody has it.
    outcome: Option<PyResult<Py<PyAny>>>,
    /// What it gives instead, if nothing goes wrong.
    value: Option<Py<PyAny>>,
    checkpoint: Checkpoint,
}

/// Whether others run before the coroutine goes on, also if it need not wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checkpoint {
    /// That is the caller's business, or done.
    No,
    /// It has not been polled: if it is over at once, the others run then.
    Due,
    /// The same, but a cancellation is left to whatever is awaited next.
    Shielded,
}

impl Wait {
    /// A wait for anything that can be polled.
    pub fn new(target: Box<dyn Pollable>) -> Self {
        Self {
            target: Some(target),
            outcome: None,
            value: None,
            checkpoint: Checkpoint::No,
        }
    }

    /// A wait that is a checkpoint by itself: what an async method returns.
    ///
    /// Cancellation is raised before anything is taken; what was taken is the caller's even if he is
    /// cancelled while the others run.
    pub fn checkpoint(target: Box<dyn Pollable>) -> Self {
        let mut wait = Self::new(target);
        wait.checkpoint = Checkpoint::Due;
        wait
    }

    /// The same, whose result is `value`.
    pub fn giving(mut self, value: Py<PyAny>) -> Self {
        self.value = Some(value);
        self
    }

    /// A checkpoint and nothing else.
    pub fn checkpoint_only() -> Self {
        Self::checkpoint(Box::new(Nothing))
    }

    /// One that is over, and lets nobody run.
    pub fn over() -> Self {
        Self {
            target: None,
            outcome: None,
            value: None,
            checkpoint: Checkpoint::No,
        }
    }

    /// The same, for `value`.
    pub fn over_with(value: Py<PyAny>) -> Self {
        let mut wait = Self::over();
        wait.outcome = Some(Ok(value));
        wait
    }

    /// A wait for a condition.
    pub fn for_source(source: Box<dyn Source>) -> Self {
        Self::new(Box::new(SourceWait {
            source,
            waiter: None,
        }))
    }

    fn poll_now(&mut self, py: Python<'_>, task: Option<&TaskRef>, cx: &mut Context<'_>) -> bool {
        match &mut self.target {
            None => true,
            Some(target) => {
                if target.poll_for(task, cx).is_ready() {
                    let result = target.result(py);
                    self.target = None;
                    self.outcome = Some(match self.value.take() {
                        Some(value) => result.map(|_| value),
                        None => result,
                    });
                    true
                } else {
                    false
                }
            }
        }
    }

    fn take_outcome(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.outcome.take().unwrap_or_else(|| Ok(py.None()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(mut target) = self.target.take() {
            target.cancel();
        }
    }
}

#[pymethods]
impl Wait {
    /// Whether the wait is over; if not, `waker` is woken when it may be.
    #[pyo3(signature = (waker=None))]
    fn poll(&mut self, py: Python<'_>, waker: Option<&HostWaker>) -> bool {
        let task = waker.map(|waker| &waker.task);
        let waker = match task {
            Some(task) => task.waker(),
            None => Waker::noop().clone(),
        };
        self.poll_now(py, task, &mut Context::from_waker(&waker))
    }

    /// What it was for. Raises what went wrong.
    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.take_outcome(py)
    }

    /// Gives the wait up.
    fn cancel(&mut self) {
        if let Some(mut target) = self.target.take() {
            target.cancel();
        }
    }

    /// Waits synchronously: the running task parks, an OS thread blocks. Returns false when
    /// `timeout` seconds are over.
    #[pyo3(signature = (timeout=None))]
    fn block(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let py = slf.py();
        let deadline = timeout.map_or(NEVER, deadline_after);
        // Borrowed for each poll only: another task may look at the object meanwhile.
        let task = run_loop::cooperating().cloned();
        wait_until(py, deadline, false, |cx| {
            if slf.borrow_mut().poll_now(py, task.as_ref(), cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// `None` while it waits, true when it only lets the others run.
    fn __next__(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.target.is_none() {
            let value = self.take_outcome(py)?;
            return Err(PyStopIteration::new_err((value,)));
        }
        let Some(task) = run_loop::current() else {
            return Err(PyRuntimeError::new_err(
                "this can only be awaited in a task of aevent's native backend",
            ));
        };
        let checkpoint = std::mem::replace(&mut self.checkpoint, Checkpoint::No);
        if checkpoint == Checkpoint::Due
            && let Err(raised) = check(&task)
        {
            let error = PyErr::from(raised);
            self.cancel();
            return Err(error);
        }
        let waker = task.waker_ref();
        if self.poll_now(py, Some(&task), &mut Context::from_waker(&waker)) {
            if checkpoint != Checkpoint::No && matches!(self.outcome, Some(Ok(_))) {
                return Ok(PyBool::new(py, true).to_owned().into_any().unbind());
            }
            let value = self.take_outcome(py)?;
            return Err(PyStopIteration::new_err((value,)));
        }
        if let Err(raised) = check(&task) {
            let error = PyErr::from(raised);
            self.cancel();
            return Err(error);
        }
        Ok(py.None())
    }

    /// A step, as of a coroutine: the method of a native task may be all that it runs.
    fn send(&mut self, py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        self.__next__(py)
    }

    /// Gives the wait up and raises what is thrown in.
    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &mut self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        self.cancel();
        Err(PyErr::from_value(match value {
            Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => value,
            Some(value) => kind.call1((value,))?,
            None if kind.is_callable() => kind.call0()?,
            None => kind,
        }))
    }

    /// Gives the wait up.
    fn close(&mut self) {
        self.cancel();
    }
}
