//! The loop of a stack: what the greenlets run that tasks run on.

use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;

use super::{Driver, Loop, Next, existing};
use crate::coroutine;
use crate::finish;
use crate::portal;
use crate::python_thread;
use crate::raw;
use crate::stack::{self, Object};
use crate::task::{Entry, Kind, TaskRef, release, state};

/// Idle stacks kept for the next tasks; more are ended. A stack costs about 5 kB.
const IDLE_STACKS: usize = 1024;

/// The Python callable that every stack runs.
pub(super) fn stack_function(py: Python<'_>) -> PyResult<Object> {
    use std::sync::atomic::{AtomicPtr, Ordering};
    static FUNCTION: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());
    static DEFINITION: raw::Definition = raw::Definition::none(c"aevent stack", run_stack);
    let known = FUNCTION.load(Ordering::Acquire);
    if !known.is_null() {
        return Ok(known);
    }
    // SAFETY: attached.
    let function = unsafe { DEFINITION.object() };
    if function.is_null() {
        return Err(PyErr::fetch(py));
    }
    FUNCTION.store(function, Ordering::Release);
    Ok(function)
}

/// Where the function begins that is at the base of every stack.
pub fn stack_address() -> usize {
    run_stack as *const () as usize
}

/// The loop of a stack. Takes the hand-off or the next task, again and again.
unsafe extern "C" fn run_stack(_module: Object, _args: Object) -> Object {
    let Some(event_loop) = existing() else {
        return raw::none();
    };
    // The reference that `stack_for_base` made.
    stack::release_current();
    let me = stack::current();
    // SAFETY: the running greenlet, which nobody but us knows yet.
    event_loop.references.set(unsafe { ffi::Py_REFCNT(me) });
    // It stays alive, since it is the one that runs this.
    release(me);
    loop {
        let (task, handed_off) = match event_loop.take_hand_off() {
            Some(task) => (task, true),
            None => match event_loop.pick() {
                Next::Task(task) => (task, false),
                Next::Base => {
                    if !idle(event_loop, None) {
                        return raw::none();
                    }
                    continue;
                }
            },
        };
        let next = state(&task);
        if next.is_frozen() {
            if !idle(event_loop, Some(task)) {
                return raw::none();
            }
            continue;
        }
        match next.kind {
            Kind::Green => run_green(event_loop, task),
            Kind::Coroutine => {
                if let Some(target) = next.take_stack() {
                    event_loop.set_hand_off(task);
                    if !switch_idle(event_loop, target) {
                        return raw::none();
                    }
                } else if coroutine::step(event_loop, task, me) && !leave_kept(event_loop) {
                    return raw::none();
                }
            }
            // A host's task is handed off for a step, and comes from the run queue to be woken.
            Kind::Host if handed_off => {
                // The step is over, and the host's greenlet goes on. The stack stays with the
                // portal until its coroutine has ended.
                let (home, kept) = portal::step_on_stack(event_loop, task);
                let goes_on = if kept {
                    switch_kept(home)
                } else if event_loop.driver.get() == Driver::None {
                    // It was the last step under the host's runner: nobody will use the stack.
                    end_stack(event_loop, home)
                } else {
                    switch_idle(event_loop, home)
                };
                if !goes_on {
                    return raw::none();
                }
            }
            Kind::Host => event_loop.resume_host(task),
        }
    }
}

/// The running stack has nothing to do: to the pool with it, and on with `task` or the base.
/// False: it shall end.
#[inline]
fn idle(event_loop: &Loop, task: Option<TaskRef>) -> bool {
    if event_loop.idle_len() >= IDLE_STACKS {
        if let Some(task) = task {
            event_loop.set_hand_off(task);
        }
        return end_stack(event_loop, event_loop.base.get());
    }
    match task {
        Some(task) => {
            let frozen = state(&task).frozen;
            task.begin_run();
            event_loop.set_current(task);
            switch_idle(event_loop, frozen)
        }
        None => switch_idle(event_loop, event_loop.base.get()),
    }
}

#[inline]
fn switch_idle(event_loop: &Loop, target: Object) -> bool {
    event_loop.push_idle(stack::current());
    // SAFETY: the target is a frozen task's greenlet, the base, or the home of a portal's step.
    let result = unsafe { stack::switch(target) };
    if result.is_null() {
        return false;
    }
    release(result);
    stack::release_current();
    // Woken with nothing to do and nobody to do it for: `drop_idle_stacks`.
    // SAFETY: one thread, nothing borrowed.
    let has_work = unsafe { (*event_loop.hand_off.get()).is_some() };
    has_work || event_loop.driver.get() != Driver::None
}

/// Leaves a stack that its portal keeps. False: the portal was dropped.
#[inline]
fn switch_kept(home: Object) -> bool {
    // SAFETY: the host's greenlet is suspended in the step.
    let result = unsafe { stack::switch(home) };
    if result.is_null() {
        // SAFETY: attached. The exception is the one that ends an abandoned greenlet.
        unsafe { ffi::PyErr_Clear() };
        return false;
    }
    release(result);
    stack::release_current();
    true
}

/// Leaves a stack that a coroutine keeps for its next step, which is then in the hand-off. False:
/// the coroutine was dropped.
#[inline(never)]
fn leave_kept(event_loop: &Loop) -> bool {
    let result = loop {
        let task = match event_loop.pick() {
            Next::Task(task) => task,
            // SAFETY: the base is suspended.
            Next::Base => break unsafe { stack::switch(event_loop.base.get()) },
        };
        let next = state(&task);
        if next.is_frozen() {
            break event_loop.resume(task);
        }
        if next.kind == Kind::Host {
            event_loop.resume_host(task);
            continue;
        }
        let target = next.take_stack();
        event_loop.set_hand_off(task);
        if let Some(target) = target {
            let me = stack::current();
            release(me);
            if target == me {
                // It is our own coroutine's turn already.
                release(target);
                return true;
            }
        }
        let target = target.or_else(|| event_loop.pop_idle());
        // SAFETY: a kept or an idle stack, or the base: suspended greenlets of this thread.
        break unsafe { stack::switch(target.unwrap_or(event_loop.base.get())) };
    };
    if result.is_null() {
        // SAFETY: attached. The exception is the one that ends an abandoned greenlet.
        unsafe { ffi::PyErr_Clear() };
        return false;
    }
    release(result);
    stack::release_current();
    true
}

/// The running stack shall end; then `target` goes on.
#[cold]
fn end_stack(event_loop: &Loop, target: Object) -> bool {
    event_loop.stacks.set(event_loop.stacks.get() - 1);
    let me = stack::current();
    // SAFETY: both are greenlets of this thread; the target, the base or the home of a portal's
    // step, is suspended in its switch and goes on when we return.
    unsafe { stack::set_parent(me, target) };
    release(me);
    false
}

/// Makes the call that a green thread is for.
///
/// Its frame is under everything that the thread does, so it keeps nothing but what it needs then.
#[inline(never)]
fn run_green(event_loop: &Loop, task: TaskRef) {
    let entry = std::mem::replace(&mut state(&task).entry, Entry::None);
    task.begin_run();
    let context = state(&task).context;
    event_loop.set_current(task);
    // SAFETY: the context is the task's own and is entered nowhere else. Whatever the call switches
    // to, it comes back to this stack.
    unsafe { ffi::PyContext_Enter(context) };
    let (thread, function, args, kwargs) = match entry {
        Entry::Call {
            function,
            args,
            kwargs,
        } => (null_mut(), function, args, kwargs),
        Entry::Thread(thread) => {
            let (function, args, kwargs) = python_thread::prepare(thread);
            (thread, function, args, kwargs)
        }
        // A green thread has something to do until it runs.
        Entry::None | Entry::Coroutine(_) => return finish_green(null_mut(), raw::none()),
    };
    if function.is_null() {
        return finish_green(thread, null_mut());
    }
    // SAFETY: the references are ours. They are given up while the task is still the running one:
    // finalizers of its arguments may block.
    let result = unsafe {
        let result = ffi::PyObject_Call(function, args, kwargs);
        ffi::Py_DECREF(function);
        ffi::Py_DECREF(args);
        ffi::Py_XDECREF(kwargs);
        result
    };
    finish_green(thread, result);
}

/// The running green thread has returned `result`, or null with an exception set. `thread` is its
/// `threading.Thread`, given up here, or null.
#[inline(never)]
fn finish_green(thread: Object, mut result: Object) {
    if !thread.is_null() {
        python_thread::end(thread, result);
        result = raw::none();
    }
    // SAFETY: attached: the call has just returned to us.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: null with an exception set, or a new reference.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(Bound::unbind);
    let event_loop = existing().expect("a task runs on a loop");
    let task = event_loop
        .take_current()
        .expect("a task is current while its function runs");
    let context = std::mem::replace(&mut state(&task).context, null_mut());
    finish::finish(py, event_loop, task, result);
    // SAFETY: `run_green` has entered it, on this stack.
    unsafe {
        ffi::PyContext_Exit(context);
        ffi::Py_DECREF(context);
    }
}
