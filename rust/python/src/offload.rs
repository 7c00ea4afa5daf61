//! Python calls that block where we cannot see it, made in real threads while the task parks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::offload::{DEFAULT_IDLE, Job, Offload};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::bridge::{self, AtWork, Attached};
use crate::ended_thread;
use crate::finish;
use crate::run_loop;
use crate::wait;

/// A call that is to be made in another thread.
struct Call {
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    /// A copy of the caller's context.
    context: Py<PyAny>,
    /// The caller's, as a thread that it started would have it: a child process that the function
    /// starts inherits it, and the pool's own would make that immune to every signal.
    signals: libc::sigset_t,
}

impl Call {
    fn make(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let kwargs = self
            .kwargs
            .as_ref()
            .map_or(std::ptr::null_mut(), |kwargs| kwargs.as_ptr());
        // SAFETY: all of them are valid objects, the context is entered nowhere else, and the mask
        // is one that the system has filled in.
        unsafe {
            if ffi::PyContext_Enter(self.context.as_ptr()) < 0 {
                return Err(PyErr::fetch(py));
            }
            let pools = replace_signal_mask(&self.signals);
            let result = ended_thread::call(self.function.as_ptr(), self.args.as_ptr(), kwargs);
            replace_signal_mask(&pools);
            // First, since leaving the context is not to be done with an exception set.
            let result = Bound::from_owned_ptr_or_err(py, result).map(Bound::unbind);
            ffi::PyContext_Exit(self.context.as_ptr());
            result
        }
    }
}

/// Sets the calling thread's signal mask and returns the former one.
///
/// # Safety
/// `mask` was filled in by the system.
unsafe fn replace_signal_mask(mask: *const libc::sigset_t) -> libc::sigset_t {
    // SAFETY: zero is valid for a set of plain integers, and the call fills it in; the rest is the
    // caller's promise. It fails for invalid arguments only.
    unsafe {
        let mut former = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, &mut former);
        former
    }
}

fn signal_mask() -> libc::sigset_t {
    // SAFETY: as above; without a new mask the call only reads the present one.
    unsafe {
        let mut mask = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
        mask
    }
}

/// Takes back that `threading` has noticed this thread, in case the function asked it for its
/// current thread: before 3.13, nobody else would.
fn forget_thread(py: Python<'_>) -> PyResult<()> {
    // Not imported: if `threading` is not there yet, it would take this for the main thread.
    let modules = py.import("sys")?.getattr("modules")?;
    let Ok(threading) = modules.get_item("threading") else {
        return Ok(());
    };
    let active = threading.getattr("_active")?.cast_into::<PyDict>()?;
    // SAFETY: takes nothing; attached.
    let ident = unsafe { ffi::PyThread_get_thread_ident() };
    if let Some(thread) = active.get_item(ident)?
        && thread.is_instance(&threading.getattr("_DummyThread")?)?
    {
        active.del_item(ident)?;
    }
    Ok(())
}

/// What the waiter gets: nothing if there was no interpreter any more.
type Outcome = Attached<PyResult<Py<PyAny>>>;

/// Runs on the pool's thread.
fn run(mut call: Attached<Call>, abandoned: &AtomicBool) -> Outcome {
    if abandoned.load(Ordering::Relaxed) {
        return Attached::new(None);
    }
    Attached::new(Python::try_attach(|py| {
        let call = call.take().expect("it is made once");
        let result = call.make(py);
        drop(call);
        if let Err(error) = forget_thread(py) {
            error.write_unraisable(py, None);
        }
        result
    }))
}

/// The wait for a call. Dropping it abandons the call: if it has not begun, it is not made.
struct Abandonable {
    job: Job<Outcome>,
    abandoned: Arc<AtomicBool>,
}

impl Future for Abandonable {
    type Output = std::thread::Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.job).poll(cx)
    }
}

impl Drop for Abandonable {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// The threads of `to_thread.run_sync`. How many there are is for its limiters to say, so the pool has
/// no limit that anybody would reach: calls that a limiter lets in may wait for each other.
static WORKERS: Offload = Offload::new(1 << 20, DEFAULT_IDLE);

/// See `_core.pyi`.
#[pyfunction]
pub fn start_worker(py: Python<'_>, function: Py<PyAny>) -> PyResult<()> {
    let context = finish::copied_context(py)?;
    let call = Attached::new(Some(Call {
        function,
        args: PyTuple::empty(py).unbind(),
        kwargs: None,
        // SAFETY: a new reference.
        context: unsafe { Bound::from_owned_ptr(py, context) }.unbind(),
        signals: signal_mask(),
    }));
    // Nobody waits for what it returns, and it is never abandoned.
    WORKERS.submit(Box::new(move || {
        let abandoned = AtomicBool::new(false);
        let mut outcome = run(call, &abandoned);
        Python::try_attach(|py| {
            if let Some(Err(error)) = outcome.take() {
                error.write_unraisable(py, None);
            }
        });
    }));
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (function, /, *args, **kwargs))]
pub fn offload(
    py: Python<'_>,
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    let Some(task) = run_loop::cooperating() else {
        return function.call(args, kwargs).map(Bound::unbind);
    };
    wait::check(task)?;
    let context = finish::copied_context(py)?;
    let call = Attached::new(Some(Call {
        function: function.clone().unbind(),
        args: args.clone().unbind(),
        kwargs: kwargs.map(|kwargs| kwargs.clone().unbind()),
        // SAFETY: a new reference.
        context: unsafe { Bound::from_owned_ptr(py, context) }.unbind(),
        signals: signal_mask(),
    }));
    let abandoned = Arc::new(AtomicBool::new(false));
    let theirs = abandoned.clone();
    let job = Offload::global().run(move || run(call, &theirs));
    let at_work = run_loop::existing().map(AtWork::begin);
    let outcome = bridge::park_on(py, Box::pin(Abandonable { job, abandoned }));
    drop(at_work);
    match outcome? {
        Ok(mut outcome) => outcome.take().unwrap_or_else(|| {
            Err(PyRuntimeError::new_err(
                "the interpreter was shut down before an offloaded call could be made",
            ))
        }),
        // A bug of ours, not of the function's: it goes where the caller's panics go.
        Err(payload) => std::panic::resume_unwind(payload),
    }
}
