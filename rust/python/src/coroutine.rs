//! Steps of native coroutines.
//!
//! A native coroutine yields one of two things: `None` when it waits (it has told somebody whom to
//! wake), `True` when it only lets the others run.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::finish;
use crate::run_loop::{self, Loop};
use crate::signals;
use crate::stack::Object;
use crate::task::{Entry, TaskRef, release, state};

/// Makes one step of `task`'s coroutine on the running stack, whose greenlet is `me`. True if the task
/// keeps the stack: it waits, and its next step must run there.
///
/// That is so if the step has made greenlets, or kept a reference to the running one: SQLAlchemy's
/// `greenlet_spawn` does, and its greenlets switch back to their parent. Such references show in
/// the count of the stack's.
#[inline(never)]
pub fn step(event_loop: &Loop, task: TaskRef, me: Object) -> bool {
    let (coroutine, context) = {
        let state = state(&task);
        // It runs now, so the reference to itself is not needed; `task` is one.
        let itself = state.itself.take();
        drop(itself);
        let Entry::Coroutine(coroutine) = state.entry else {
            return false;
        };
        (coroutine, state.context)
    };
    task.begin_run();
    event_loop.set_current(task);
    if event_loop.signals.are_postponed() {
        call_handlers(event_loop, context);
    }
    let mut value: Object = std::ptr::null_mut();
    // SAFETY: the entry owns the coroutine and the task its context until `finish`, which only this
    // function calls for a coroutine.
    let outcome = unsafe {
        ffi::PyContext_Enter(context);
        let outcome = ffi::PyIter_Send(coroutine, ffi::Py_None(), &mut value);
        ffi::PyContext_Exit(context);
        outcome
    };
    // SAFETY: the interpreter is attached: it has just returned to us.
    let py = unsafe { Python::assume_attached() };
    let task = event_loop
        .take_current()
        .expect("a task is current while its coroutine runs");
    match outcome {
        ffi::PySendResult::PYGEN_NEXT => {
            // SAFETY: a new reference; the running greenlet, which is alive. The number that is
            // compared with counts one of the asker's, who has none here.
            let (value, is_kept) = unsafe {
                let value = Bound::from_owned_ptr(py, value);
                (
                    value,
                    ffi::Py_REFCNT(me) >= event_loop.references_to_stack(),
                )
            };
            if is_kept {
                // SAFETY: as above.
                unsafe { ffi::Py_INCREF(me) };
                state(&task).stack = me;
            }
            if value.is_none() {
                wait(event_loop, task);
            } else if value.is(pyo3::types::PyBool::new(py, true)) {
                // It goes on counting as running, as in `Loop::yield_now`.
                event_loop.scheduler.requeue(task);
            } else {
                return refuse(py, event_loop, task, &value) && is_kept;
            }
            is_kept
        }
        ffi::PySendResult::PYGEN_RETURN => {
            // SAFETY: a new reference.
            let value = unsafe { Bound::from_owned_ptr(py, value) };
            finish::finish(py, event_loop, task, Ok(value.unbind()));
            false
        }
        ffi::PySendResult::PYGEN_ERROR => {
            finish::finish(py, event_loop, task, Err(PyErr::fetch(py)));
            false
        }
    }
}

/// The main task calls the signal handlers that others have left to it. What one raises is raised
/// where the coroutine awaits.
#[cold]
fn call_handlers(event_loop: &Loop, context: Object) {
    let Some(task) = run_loop::current() else {
        return;
    };
    // SAFETY: attached: a stack of ours runs; the context is the task's own.
    unsafe { ffi::PyContext_Enter(context) };
    let result = signals::run_postponed(event_loop, &task);
    let error = result.err().map(PyErr::from);
    // SAFETY: it was entered above, on this stack.
    unsafe { ffi::PyContext_Exit(context) };
    if let Some(error) = error {
        let former = state(&task).interrupt.replace(error);
        drop(former);
    }
}

fn wait(event_loop: &Loop, task: TaskRef) {
    if task.begin_park() {
        let parked = Arc::as_ptr(&task);
        // SAFETY: the reference that is stored keeps the task alive, as `task` does until then.
        unsafe { &*parked }.payload.state().itself = Some(task);
    } else {
        task.begin_yield();
        event_loop.scheduler.enqueue(task);
    }
}

/// A coroutine of ours awaits something of another framework.
#[cold]
pub fn foreign_yield(value: &Bound<'_, PyAny>) -> PyErr {
    let text = value
        .repr()
        .map_or_else(|_| "an object".to_owned(), |text| text.to_string());
    PyRuntimeError::new_err(format!(
        "a task of aevent's native backend awaited something that yielded {text}, which only \
         another framework's loop understands. Run the program on that backend, or use aevent's or \
         anyio's function instead."
    ))
}

/// Raises the error where the coroutine awaits. False if that was its end.
#[cold]
fn refuse(py: Python<'_>, event_loop: &Loop, task: TaskRef, value: &Bound<'_, PyAny>) -> bool {
    let error = foreign_yield(value);
    let Entry::Coroutine(coroutine) = state(&task).entry else {
        return false;
    };
    event_loop.set_current(task);
    // SAFETY: the entry owns the coroutine.
    let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
    let result = coroutine.call_method1("throw", (error.into_value(py),));
    let Some(task) = event_loop.take_current() else {
        return false;
    };
    match result {
        // It caught the error and yields again; whatever that is, it gets another step.
        Ok(_) => {
            task.begin_yield();
            event_loop.scheduler.enqueue(task);
            true
        }
        Err(error) => {
            if let Some(stack) = state(&task).take_stack() {
                release(stack);
            }
            let result = match error.matches(py, py.get_type::<pyo3::exceptions::PyStopIteration>())
            {
                Ok(true) => error.value(py).getattr("value").map(Bound::unbind),
                _ => Err(error),
            };
            finish::finish(py, event_loop, task, result);
            false
        }
    }
}
