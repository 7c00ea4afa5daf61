//! How tasks begin and end.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::NEVER;
use aevent_runtime::task::Task;
use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::children::ChildrenRef;
use crate::errors::Cancelled;
use crate::python_thread;
use crate::run_loop::{Aside, Loop};
use crate::stack::Object;
use crate::task::{Entry, Kind, Payload, Report, ScopeRef, TaskRef, release, state};
use crate::thread;
use crate::thread_count;

/// What a new task is given besides its work.
pub struct Start<'a> {
    pub entry: Entry,
    pub kind: Kind,
    /// Owned.
    pub context: Object,
    pub report: Report,
    /// The scope that the task's own becomes a child of.
    pub parent: Option<&'a ScopeRef>,
    /// The runner's children, inherited by threads that the task starts.
    pub home: Option<ChildrenRef>,
}

/// Makes a task and queues it. It runs when its turn comes, on this thread.
pub fn spawn(event_loop: &Loop, start: Start<'_>) -> TaskRef {
    let task = Task::new_queued(
        event_loop.scheduler.clone(),
        Payload::new(start.kind, start.entry, start.context),
    );
    let state = state(&task);
    state.report = start.report;
    state.home = start.home;
    state.scope = Some(match start.parent {
        Some(parent) => Scope::child(parent, NEVER, false, Some(task.clone())),
        None => {
            let root = Scope::root();
            root.set_task(task.clone());
            root
        }
    });
    if start.kind == Kind::Coroutine {
        // In line with those that were woken: what is written for asyncio and trio counts on a new
        // task's first step coming before the second one of a task that was started earlier.
        event_loop.scheduler.enqueue(task.clone());
    } else {
        event_loop.scheduler.enqueue_fresh(task.clone());
    }
    task
}

/// An empty context, as a new thread has.
pub fn empty_context(py: Python<'_>) -> PyResult<Object> {
    // SAFETY: attached.
    let context = unsafe { ffi::PyContext_New() };
    if context.is_null() {
        return Err(PyErr::fetch(py));
    }
    Ok(context)
}

/// A copy of the caller's context, as a new task has.
pub fn copied_context(py: Python<'_>) -> PyResult<Object> {
    // SAFETY: attached.
    let context = unsafe { ffi::PyContext_CopyCurrent() };
    if context.is_null() {
        return Err(PyErr::fetch(py));
    }
    Ok(context)
}

/// The task has ended with `result`. It was taken out of `current`.
///
/// Runs Python code (finalizers, hooks) with no task current; nothing of the task is borrowed then.
pub fn finish(py: Python<'_>, event_loop: &Loop, task: TaskRef, result: PyResult<Py<PyAny>>) {
    task.finish();
    let (entry, context, scope, report, finished, locals) = {
        let state = state(&task);
        (
            std::mem::replace(&mut state.entry, Entry::None),
            std::mem::replace(&mut state.context, null_mut()),
            state.scope.take(),
            std::mem::replace(&mut state.report, Report::Unraisable),
            state.finished.take(),
            std::mem::take(&mut state.locals),
        )
    };
    if let Entry::Coroutine(coroutine) = entry {
        release(coroutine);
    }
    release(context);
    for local in locals {
        crate::local::forget(py, &local, &task);
    }
    if matches!(report, Report::Outcome) {
        // It may be what `run` waits for, whether or not the signals are its own.
        event_loop.stop();
    }
    match report {
        Report::Unraisable => report_unraisable(py, &task, result),
        Report::Outcome => state(&task).outcome = Some(result),
        Report::EndOfProcess => end_process(py, result),
        Report::Children(children) => {
            let daemon = state(&task).daemon;
            children.child_finished(py, &task, scope.as_ref(), daemon, result);
        }
    }
    thread_count::end(&task);
    if state(&task).thread.is_some() {
        python_thread::ended(py, thread::ident(&task));
    }
    if let Some(scope) = scope {
        for other in scope.close() {
            other.unpark_owned();
        }
    }
    if let Some(finished) = finished {
        finished.notify_all();
    }
    if event_loop
        .main()
        .is_some_and(|main| Arc::ptr_eq(&main, &task))
    {
        event_loop.signals.notice_again();
    }
    let (thread, home, name) = {
        let state = state(&task);
        (state.thread.take(), state.home.take(), state.name.take())
    };
    drop((thread, home, name));
}

/// Reports the exception of a task that nobody waits for, as `_thread` does.
pub fn report_unraisable(py: Python<'_>, task: &TaskRef, result: PyResult<Py<PyAny>>) {
    let Err(error) = result else { return };
    if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<Cancelled>(py) {
        return;
    }
    let _aside = Aside::step();
    let Some(name) = state(task).name.as_ref().map(|name| name.clone_ref(py)) else {
        error.write_unraisable(py, None);
        return;
    };
    error.restore(py);
    unraisable_in_thread(name.bind(py));
}

/// Reports the exception that is set, in the words of `_thread`.
fn unraisable_in_thread(started: &Bound<'_, PyAny>) {
    // Looked up by name: the first is public since 3.13, the second was private until 3.12. Without
    // either, the report lacks the words and is complete otherwise.
    type Format = unsafe extern "C" fn(*const c_char, ...);
    type Message = unsafe extern "C" fn(*const c_char, Object);
    // SAFETY: attached, with an exception set, which all three take away; the signatures are those of
    // CPython's headers, and null is not called.
    unsafe {
        let format = libc::dlsym(libc::RTLD_DEFAULT, c"PyErr_FormatUnraisable".as_ptr());
        if !format.is_null() {
            let format = std::mem::transmute::<*mut c_void, Format>(format);
            format(
                c"Exception ignored in thread started by %R".as_ptr(),
                started.as_ptr(),
            );
            return;
        }
        let message = libc::dlsym(libc::RTLD_DEFAULT, c"_PyErr_WriteUnraisableMsg".as_ptr());
        if message.is_null() {
            ffi::PyErr_WriteUnraisable(started.as_ptr());
        } else {
            let message = std::mem::transmute::<*mut c_void, Message>(message);
            message(c"in thread started by".as_ptr(), started.as_ptr());
        }
    }
}

/// In the child of a fork, where `task` is the only one left.
///
/// If it was not the main task, or a host drives the loop, the process ends with it, as it does with CPython when the thread
/// that forked returns.
pub fn adopt_after_fork(event_loop: &Loop, task: &TaskRef) {
    task.survive_fork();
    // Below a task on a host's loop lies the parent's program, which must not go on here: the loop
    // becomes our own, and ends with the task.
    let host_was_below = event_loop.leave_host();
    let was_main = event_loop
        .main()
        .is_some_and(|main| Arc::ptr_eq(&main, task));
    let (scope, report) = {
        let state = state(task);
        let scope = Scope::root();
        scope.set_task(task.clone());
        let report = if was_main && !host_was_below {
            std::mem::replace(&mut state.report, Report::Outcome)
        } else {
            std::mem::replace(&mut state.report, Report::EndOfProcess)
        };
        (state.scope.replace(scope), report)
    };
    // The siblings that these count, and the scopes above, are the parent's.
    std::mem::forget((scope, report));
    std::mem::forget(event_loop.set_main(Some(task.clone())));
}

/// The thread that forked has returned in the child.
#[cold]
pub fn end_process(py: Python<'_>, result: PyResult<Py<PyAny>>) -> ! {
    let mut status = 0;
    if let Err(error) = result {
        if error.is_instance_of::<PySystemExit>(py) {
            status = error
                .value(py)
                .getattr("code")
                .and_then(|code| code.extract())
                .unwrap_or(0);
        } else {
            status = 1;
            let _aside = Aside::step();
            error.print(py);
        }
    }
    let _ = py.run(
        c"import sys\nfor stream in (sys.stdout, sys.stderr):\n    try:\n        stream.flush()\n    except Exception:\n        pass",
        None,
        None,
    );
    // SAFETY: ends the process; nothing of ours needs to be undone.
    unsafe { libc::_exit(status) }
}
