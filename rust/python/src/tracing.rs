//! The functions of `sys.settrace` and `sys.setprofile`: each green thread has its own.
//!
//! The interpreter keeps them with its thread state, of which green threads share one. Once a task has
//! set one, whoever is about to run gets his own installed, and those of before are kept with
//! the task that had set them. Until then nothing is done but to look at a flag.
//!
//! What is no thread (the main task, coroutines, the host's tasks) shares what the thread of the
//! operating system has.
//!
//! One may also be set for everybody at once (`threading.settrace_all_threads`). That is numbered:
//! what is kept with a task from before gets it when the task runs next, whosever loop that is in.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::prelude::*;

use crate::errors;
use crate::run_loop;
use crate::task::{TaskRef, state};

/// `sys`'s own functions.
struct Originals {
    gettrace: Py<PyAny>,
    settrace: Py<PyAny>,
    getprofile: Py<PyAny>,
    setprofile: Py<PyAny>,
}

static ORIGINALS: OnceLock<Originals> = OnceLock::new();

/// `enable` of `cProfile.Profile`, where a profiler takes the place of a profile function.
static ENABLE_PROFILER: OnceLock<Py<PyAny>> = OnceLock::new();

/// A function that was set for all threads, and when: its number.
type ForAll = Option<(u32, Py<PyAny>)>;

/// The latest ones: for `settrace` and for `setprofile`.
static TRACE: Mutex<ForAll> = Mutex::new(None);
static PROFILE: Mutex<ForAll> = Mutex::new(None);

/// How often one was set for all threads.
static TIMES: AtomicU32 = AtomicU32::new(0);

/// How often it had been when something was made: what is set later is for it, too.
#[inline(always)]
pub fn times_set_for_all() -> u32 {
    TIMES.load(Ordering::Relaxed)
}

/// What is installed for one thread.
pub struct Functions {
    trace: Py<PyAny>,
    profile: Py<PyAny>,
    /// What was set for all threads until then is in them.
    times: u32,
}

impl Functions {
    fn none(py: Python<'_>, times: u32) -> Self {
        Self {
            trace: py.None(),
            profile: py.None(),
            times,
        }
    }

    fn installed(py: Python<'_>, sys: &Originals) -> PyResult<Self> {
        Ok(Self {
            trace: sys.gettrace.call0(py)?,
            profile: sys.getprofile.call0(py)?,
            times: times_set_for_all(),
        })
    }

    /// With what has been set for all threads since they were kept. Those of before are dropped by
    /// the caller.
    fn brought_up_to_date(&self, py: Python<'_>) -> Self {
        let latest = |former: &Py<PyAny>, for_all: &Mutex<ForAll>| {
            // Copying a reference runs no Python code under the lock.
            match &*for_all.lock().unwrap_or_else(PoisonError::into_inner) {
                Some((number, function)) if *number > self.times => function.clone_ref(py),
                _ => former.clone_ref(py),
            }
        };
        Self {
            trace: latest(&self.trace, &TRACE),
            profile: latest(&self.profile, &PROFILE),
            times: times_set_for_all(),
        }
    }

    fn install(&self, py: Python<'_>, sys: &Originals, instead_of: &Self) -> PyResult<()> {
        if !self.trace.is(&instead_of.trace) {
            sys.settrace.call1(py, (&self.trace,))?;
        }
        if !self.profile.is(&instead_of.profile) {
            self.install_profile(py, sys)?;
        }
        Ok(())
    }
}

impl Functions {
    fn install_profile(&self, py: Python<'_>, sys: &Originals) -> PyResult<()> {
        let function = self.profile.bind(py);
        if function.is_none() || function.is_callable() {
            sys.setprofile.call1(py, (function,))?;
        } else if let Some(enable) = ENABLE_PROFILER.get() {
            // What is called is a function in C that it has installed: `sys.setprofile` cannot.
            enable.call1(py, (function,))?;
        } else {
            sys.setprofile.call1(py, (py.None(),))?;
        }
        Ok(())
    }
}

/// What a loop keeps about it.
pub struct Tracing {
    /// Whether anybody has set a function since the loop was made.
    is_used: Cell<bool>,
    /// The green thread whose functions are installed; `None`: the shared ones are.
    owner: UnsafeCell<Option<TaskRef>>,
    /// The shared ones, while they are not installed.
    shared: UnsafeCell<Option<Functions>>,
}

impl Tracing {
    pub const fn new() -> Self {
        Self {
            is_used: Cell::new(false),
            owner: UnsafeCell::new(None),
            shared: UnsafeCell::new(None),
        }
    }

    /// `task` is about to run; `None`: the host, or whoever has called `run`.
    #[inline(always)]
    pub fn before(&self, task: Option<&TaskRef>) {
        if self.is_used.get() {
            self.switch(task);
        }
    }

    #[cold]
    #[inline(never)]
    fn switch(&self, task: Option<&TaskRef>) {
        // SAFETY: attached: a task is about to run.
        let py = unsafe { Python::assume_attached() };
        let Some(sys) = ORIGINALS.get() else { return };
        let next = task.filter(|task| state(task).is_thread);
        // SAFETY: one thread; cloning runs no Python code.
        let owner = unsafe { (*self.owner.get()).clone() };
        if owner.as_ref().map(Arc::as_ptr) == next.map(Arc::as_ptr) {
            return;
        }
        if let Err(error) = self.exchange(py, sys, owner, next.cloned()) {
            error.write_unraisable(py, None);
        }
    }

    fn exchange(
        &self,
        py: Python<'_>,
        sys: &Originals,
        owner: Option<TaskRef>,
        next: Option<TaskRef>,
    ) -> PyResult<()> {
        let present = Functions::installed(py, sys)?;
        let (kept, times) = match &next {
            Some(task) => (
                state(task).tracing.take().map(|functions| *functions),
                state(task).times_traced,
            ),
            // SAFETY: one thread, nothing borrowed.
            None => (unsafe { (*self.shared.get()).take() }, 0),
        };
        let kept = kept.unwrap_or_else(|| Functions::none(py, times));
        let wanted = kept.brought_up_to_date(py);
        wanted.install(py, sys, &present)?;
        // SAFETY: as above; what was there is dropped after it was replaced.
        let former = unsafe { std::mem::replace(&mut *self.owner.get(), next) };
        match owner {
            // One that has ended has no more use for them.
            Some(task) if task.is_done() => drop(present),
            Some(task) => state(&task).tracing = Some(Box::new(present)),
            // SAFETY: as above.
            None => unsafe { *self.shared.get() = Some(present) },
        }
        drop((former, kept, wanted));
        Ok(())
    }
}

/// `sys`'s own `gettrace`, `settrace`, `getprofile` and `setprofile`. Called once, by its patch.
#[pyfunction]
pub fn set_tracing_functions(
    gettrace: Py<PyAny>,
    settrace: Py<PyAny>,
    getprofile: Py<PyAny>,
    setprofile: Py<PyAny>,
) {
    let _ = ORIGINALS.set(Originals {
        gettrace,
        settrace,
        getprofile,
        setprofile,
    });
}

/// `sys.settrace` in a task: for the running thread only.
#[pyfunction]
#[pyo3(signature = (function, /))]
pub fn settrace(py: Python<'_>, function: &Bound<'_, PyAny>) -> PyResult<()> {
    let sys = begin(py)?;
    sys.settrace.call1(py, (function,)).map(drop)
}

/// `sys.setprofile` in a task: for the running thread only.
#[pyfunction]
#[pyo3(signature = (function, /))]
pub fn setprofile(py: Python<'_>, function: &Bound<'_, PyAny>) -> PyResult<()> {
    let sys = begin(py)?;
    sys.setprofile.call1(py, (function,)).map(drop)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn separate_profilers(py: Python<'_>, enable: Bound<'_, PyAny>) -> PyResult<()> {
    begin(py)?;
    let _ = ENABLE_PROFILER.set(enable.unbind());
    Ok(())
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (function, original, /))]
pub fn settrace_all_threads(
    py: Python<'_>,
    function: &Bound<'_, PyAny>,
    original: &Bound<'_, PyAny>,
) -> PyResult<()> {
    set_for_all(py, &TRACE, function, original)
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (function, original, /))]
pub fn setprofile_all_threads(
    py: Python<'_>,
    function: &Bound<'_, PyAny>,
    original: &Bound<'_, PyAny>,
) -> PyResult<()> {
    set_for_all(py, &PROFILE, function, original)
}

/// Whoever runs in an OS thread has it from the original; all others find it when they run next.
fn set_for_all(
    py: Python<'_>,
    for_all: &Mutex<ForAll>,
    function: &Bound<'_, PyAny>,
    original: &Bound<'_, PyAny>,
) -> PyResult<()> {
    begin(py)?;
    let number = TIMES.fetch_add(1, Ordering::Relaxed) + 1;
    let latest = Some((number, function.clone().unbind()));
    let former = std::mem::replace(
        &mut *for_all.lock().unwrap_or_else(PoisonError::into_inner),
        latest,
    );
    drop(former);
    original.call1((function,)).map(drop)
}

/// From now on the green threads of this OS thread have functions each.
fn begin(py: Python<'_>) -> PyResult<&'static Originals> {
    let sys = ORIGINALS
        .get()
        .ok_or_else(|| errors::no_task("sys.settrace()"))?;
    if let Some(event_loop) = run_loop::existing()
        && !event_loop.tracing.is_used.replace(true)
        && let Some(task) = run_loop::current()
        && state(&task).is_thread
    {
        // What is installed is the OS thread's, and will be again when this one does not run.
        let present = Functions::installed(py, sys)?;
        // SAFETY: one thread; nobody has used them before, so nothing is dropped.
        unsafe {
            *event_loop.tracing.owner.get() = Some(task);
            *event_loop.tracing.shared.get() = Some(present);
        }
    }
    Ok(sys)
}
