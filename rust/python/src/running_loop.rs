//! asyncio's running loop belongs to a thread, so to a task here.
//!
//! asyncio keeps it in one slot of the OS thread, in C. A task that runs a loop of its own
//! (`asyncio.run` in a green thread) has the slot only while the task itself runs: it clears it when
//! it leaves its stack, and fills it again when it comes back. So everybody else finds the slot empty,
//! and those who run no loop pay for one look at a field of their own.
//!
//! The same holds for the interpreter's hooks for async generators, which a loop sets for its time.

use std::ptr::null_mut;
use std::sync::OnceLock;

use aevent_runtime::task::Task;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::raw;
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, Payload, release, state};

/// `asyncio._set_running_loop`, as it was.
static ORIGINAL: OnceLock<Py<PyAny>> = OnceLock::new();

/// Says what `set_running_loop` stands for. The first one counts.
#[pyfunction]
pub fn keep_running_loops(original: Py<PyAny>) {
    let _ = ORIGINAL.set(original);
}

/// Set the running event loop.
///
/// It is the running task's from now on, if there is one, and nobody else's.
#[pyfunction(name = "_set_running_loop")]
#[pyo3(signature = (r#loop, /))]
pub fn set_running_loop(py: Python<'_>, r#loop: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(original) = ORIGINAL.get() {
        original.call1(py, (r#loop,))?;
    }
    if let Some(task) = run_loop::current() {
        let mine = if r#loop.is_none() && state(&task).generator_hooks.is_none() {
            null_mut()
        } else {
            r#loop.clone().into_ptr()
        };
        let former = std::mem::replace(&mut state(&task).running_loop, mine);
        release(former);
    }
    Ok(())
}

/// `sys.set_asyncgen_hooks`, as it was.
static SET_HOOKS: OnceLock<Py<PyAny>> = OnceLock::new();

/// The hooks for async generators that a task has set.
pub struct Hooks {
    /// What there was before, and is while others run.
    others: Py<PyTuple>,
    own: Py<PyTuple>,
}

/// See `_core.pyi`.
#[pyfunction]
pub fn keep_generator_hooks(
    py: Python<'_>,
    set_hooks: Py<PyAny>,
    before: Py<PyTuple>,
    now: Py<PyTuple>,
) {
    let _ = SET_HOOKS.set(set_hooks);
    let Some(task) = run_loop::current() else {
        return;
    };
    if state(&task).kind == Kind::Host {
        return;
    }
    let others = match &state(&task).generator_hooks {
        Some(hooks) => hooks.others.clone_ref(py),
        None => before,
    };
    let are_back = now
        .bind(py)
        .iter()
        .zip(others.bind(py).iter())
        .all(|(one, other)| one.is(&other));
    let hooks = (!are_back).then(|| Box::new(Hooks { others, own: now }));
    let has_hooks = hooks.is_some();
    let former = std::mem::replace(&mut state(&task).generator_hooks, hooks);
    drop(former);
    // A task that has hooks and no loop has `None` for its loop, so that whoever leaves a stack need
    // look at one field only.
    let state = state(&task);
    // SAFETY: `None` lives for ever.
    let none = unsafe { ffi::Py_None() };
    if has_hooks && state.running_loop.is_null() {
        state.running_loop = raw::none();
    } else if !has_hooks && state.running_loop == none {
        release(std::mem::replace(&mut state.running_loop, null_mut()));
    }
}

/// `task`, which has a loop or hooks, leaves its stack.
#[cold]
#[inline(never)]
pub fn hide(task: &Task<Payload>) {
    // SAFETY: `None` lives for ever.
    unsafe { set(ffi::Py_None()) };
    set_hooks(task, |hooks| &hooks.others);
}

/// It is back.
///
/// # Safety
/// `own` is the loop that the running task has noted.
#[cold]
#[inline(never)]
pub unsafe fn show(task: &Task<Payload>, own: Object) {
    // SAFETY: the task owns it, and only it could give it up.
    unsafe { set(own) };
    set_hooks(task, |hooks| &hooks.own);
}

/// # Safety
/// `value` is a valid object.
unsafe fn set(value: Object) {
    if let Some(original) = ORIGINAL.get() {
        // SAFETY: attached, as everybody is who leaves a stack; the caller vouches for the value.
        aside(original, || unsafe {
            ffi::PyObject_CallOneArg(original.as_ptr(), value)
        });
    }
}

/// Sets some hooks of the task's, if it has any.
fn set_hooks(task: &Task<Payload>, which: impl FnOnce(&Hooks) -> &Py<PyTuple>) {
    // SAFETY: attached, as everybody is who leaves a stack or comes back.
    let py = unsafe { Python::assume_attached() };
    let hooks = task.payload.state().generator_hooks.as_deref();
    if let Some(hooks) = hooks.map(|hooks| which(hooks).clone_ref(py))
        && let Some(function) = SET_HOOKS.get()
    {
        // SAFETY: attached; a function and a tuple.
        aside(function, || unsafe {
            ffi::PyObject_CallObject(function.as_ptr(), hooks.as_ptr())
        });
    }
}

/// Calls `function`, by `call`. An exception that is on its way stays on its way.
fn aside(function: &Py<PyAny>, call: impl FnOnce() -> Object) {
    // SAFETY: attached, as everybody is who leaves a stack or comes back.
    let py = unsafe { Python::assume_attached() };
    let on_its_way = PyErr::take(py);
    let result = call();
    if result.is_null() {
        // SAFETY: attached, with an exception set.
        unsafe { ffi::PyErr_WriteUnraisable(function.as_ptr()) };
    }
    release(result);
    if let Some(error) = on_its_way {
        error.restore(py);
    }
}
