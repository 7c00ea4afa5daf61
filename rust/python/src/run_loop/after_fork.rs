//! The child of a fork: the running task is the only one that lives on in it.

use pyo3::prelude::*;

use aevent_runtime::fork;

use super::{Driver, Loop, Next, all_loops, current, existing};
use crate::errors;
use crate::finish;
use crate::preempt;
use crate::raw;
use crate::stack::{self, Object};
use crate::task::{Kind, TaskRef, release, state};

impl Loop {
    /// In the child of a fork: the loop is our own from now on. The base, suspended in `tick`, will
    /// wait for events itself. True if a host drove it.
    pub fn leave_host(&self) -> bool {
        if self.driver.get() != Driver::Host {
            return false;
        }
        self.driver.set(Driver::Native);
        self.scheduler.set_host_has_the_thread(false);
        // SAFETY: as in `host`. The adapter is the parent's: leaked.
        std::mem::forget(unsafe { (*self.host.get()).take() });
        true
    }

    /// In the child of a fork by a host's task: the host's loop, whose descriptors are the parent's,
    /// must not go on. The task becomes a green thread; it gets a base of its own, since the
    /// host's greenlet must not be returned to.
    fn go_on_alone(&self, py: Python<'_>, task: &TaskRef) -> PyResult<()> {
        static BASE: raw::Definition = raw::Definition::none(c"aevent base", run_base);
        let me = stack::current();
        // SAFETY: attached; `me` is the running greenlet.
        let base = unsafe {
            let function = BASE.object();
            if function.is_null() {
                release(me);
                return Err(PyErr::fetch(py));
            }
            stack::new(function, me)
        };
        release(me);
        if base.is_null() {
            return Err(PyErr::fetch(py));
        }
        // Never given back: it is there until the process ends, which it does with the task.
        self.base.set(base);
        state(task).kind = Kind::Green;
        Ok(())
    }
}

/// The base of a child that a host's task has forked; see [`Loop::go_on_alone`].
unsafe extern "C" fn run_base(_module: Object, _args: Object) -> Object {
    // SAFETY: attached: it runs as a greenlet of Python's.
    let py = unsafe { Python::assume_attached() };
    let Some(event_loop) = existing() else {
        return raw::none();
    };
    loop {
        let next = match event_loop.take_hand_off() {
            Some(task) => Next::Task(task),
            None => event_loop.pick(),
        };
        let result = match next {
            Next::Task(task) => event_loop.run_from_base(py, task),
            Next::Base => Ok(()),
        };
        // SAFETY: one thread, nothing borrowed.
        let failure = unsafe { (*event_loop.failure.get()).take() };
        if let Some(error) = result.err().or(failure) {
            finish::end_process(py, Err(error));
        }
    }
}

/// In the child of a fork: the running task is the only one.
///
/// Everything else the loop knew is leaked: parked stacks would run their `finally` blocks in the
/// wrong process.
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    aevent_runtime::offload::Offload::global().after_fork_child();
    all_loops::forget_others();
    crate::thread_count::after_fork_in_child(current().as_ref());
    let Some(event_loop) = existing() else {
        return Ok(());
    };
    event_loop
        .scheduler
        .reset_after_fork()
        .map_err(|error| errors::from_io(py, &error))?;
    event_loop.generation.set(fork::generation());
    event_loop.signals.forget_postponed();
    event_loop.questions.forget();
    event_loop.turns.forget();
    std::mem::forget(event_loop.take_hand_off());
    let driven = event_loop.driver.get() != Driver::None;
    preempt::after_fork_in_child(&event_loop.scheduler, driven);
    if let Some(task) = current() {
        if state(&task).kind == Kind::Host {
            event_loop.go_on_alone(py, &task)?;
        }
        finish::adopt_after_fork(event_loop, &task);
    } else if driven {
        // Forked by a host's own code: the host's loop goes on with a scheduler that is empty.
        std::mem::forget(event_loop.set_main(None));
    }
    Ok(())
}
