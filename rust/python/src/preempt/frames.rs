//! Whether a task can be left, by what it does in Python.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

/// The instructions at which a task may be left, by their numbers: those that jump back or begin a
/// function. At a call, a C function may have asked for signals while it holds a lock of its own.
static POINTS: Mutex<[bool; 256]> = Mutex::new([false; 256]);

/// The loop that drives us counts on its code being alone in the OS thread until it awaits. We call that
/// for green threads, too: `aevent.await_()` makes a host's task.
const HOSTS: [&str; 6] = ["asyncio", "trio", "anyio", "sniffio", "outcome", "uvloop"];

/// See `_core.pyi`.
#[pyfunction]
pub fn set_preemption_points(points: Vec<u8>) {
    let mut known = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
    for point in points {
        known[usize::from(point)] = true;
    }
}

/// Whether the interpreter is between two instructions in `frame`, and not in a call.
pub fn is_between_instructions(frame: &Bound<'_, PyAny>) -> PyResult<bool> {
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

/// Whether `frame` is of aevent's own code, which counts on running until it parks, or of the import
/// system, whose lock is the OS thread's.
pub fn is_ours(frame: &Bound<'_, PyAny>) -> bool {
    module_is(frame, |name| {
        name == "aevent" || name.starts_with("aevent.") || name.starts_with("importlib._")
    })
}

/// Whether the caller is, by way of the import system, a module's code.
pub fn is_importing(py: Python<'_>) -> bool {
    // SAFETY: attached; a borrowed reference or null.
    let frame = unsafe { ffi::PyEval_GetFrame() };
    // SAFETY: as above.
    let mut frame = unsafe { Bound::from_borrowed_ptr_or_opt(py, frame.cast()) };
    while let Some(each) = frame {
        if module_is(&each, |name| name.starts_with("importlib._")) {
            return true;
        }
        frame = each.getattr("f_back").ok().filter(|back| !back.is_none());
    }
    false
}

fn module_is(frame: &Bound<'_, PyAny>, test: impl FnOnce(&str) -> bool) -> bool {
    let name = || {
        frame
            .getattr("f_globals")?
            .get_item("__name__")?
            .extract::<String>()
    };
    name().is_ok_and(|name| test(&name))
}

fn is_of_a_host(name: &str) -> bool {
    let package = name.split('.').next().unwrap_or(name);
    HOSTS.contains(&package)
}

/// Whether it is a module that calls the host. Those that patch call loops that tasks run themselves,
/// which share nothing with others.
fn calls_hosts(name: &str) -> bool {
    name.starts_with("aevent.") && !name.starts_with("aevent._monkey.")
}

/// Whether all that has called `frame` can be left: not a host's code on our behalf, nor a trace or
/// profile function, since nobody else would be traced meanwhile.
pub fn callers_can_be_left(frame: &Bound<'_, PyAny>) -> PyResult<bool> {
    let sys = frame.py().import("sys")?;
    let (trace, profile) = (
        sys.call_method0("gettrace")?,
        sys.call_method0("getprofile")?,
    );
    let is_traced = !trace.is_none() || !profile.is_none();
    let tracers = [code_of(&trace), code_of(&profile)];
    let mut is_hosts = module_is(frame, is_of_a_host);
    let mut frame = frame.clone();
    loop {
        let back = frame.getattr("f_back")?;
        if back.is_none() {
            return Ok(true);
        }
        if is_hosts && module_is(&back, calls_hosts) {
            return Ok(false);
        }
        is_hosts = module_is(&back, is_of_a_host);
        if is_traced {
            let code = frame.getattr("f_code")?;
            let local = code_of(&back.getattr("f_trace")?);
            let mut tracers = tracers.iter().chain([&local]).flatten();
            if tracers.any(|tracer| tracer.is(&code)) {
                return Ok(false);
            }
        }
        frame = back;
    }
}

/// The code of a function or a method that is written in Python.
fn code_of<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    if function.is_none() {
        return None;
    }
    let function = function
        .getattr("__func__")
        .unwrap_or_else(|_| function.clone());
    function.getattr("__code__").ok()
}
