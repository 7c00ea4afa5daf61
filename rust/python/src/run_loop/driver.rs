//! Who calls the loop, and what runs in the greenlet that did.

use std::ptr::null_mut;

use aevent_runtime::clock;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::stack_loop::stack_function;
use super::{Loop, Next};
use crate::errors;
use crate::finish;
use crate::preempt;
use crate::stack::{self, Object};
use crate::task::{Kind, TaskRef, release, state};

/// Who calls the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Nobody at the moment.
    None,
    /// [`Loop::run`].
    Native,
    /// A host, with [`Loop::tick`].
    Host,
}

impl Loop {
    /// The adapter of the host that drives us.
    pub fn host(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: one thread, and nothing else is borrowed; cloning runs no Python code.
        unsafe { (*self.host.get()).as_ref().map(|host| host.clone_ref(py)) }
    }

    /// A host takes the loop over, or (`None`) gives it up.
    pub fn set_host(&self, host: Option<Py<PyAny>>) -> PyResult<()> {
        if host.is_none() {
            // What was cancelled last is not to wait for the next run to be dropped.
            self.scheduler.run_futures();
        }
        if host.is_some() && self.driver.get() == Driver::Native {
            return Err(PyRuntimeError::new_err(
                "aevent's native loop runs in this thread already: a host cannot take it over",
            ));
        }
        self.driver.set(if host.is_some() {
            Driver::Host
        } else {
            Driver::None
        });
        self.scheduler.set_host_has_the_thread(host.is_some());
        self.watch_or_rest(host.is_some());
        if let Some(task) = self.take_current() {
            // Whether it cooperates may have changed.
            self.set_current(task);
        }
        // SAFETY: as in `host`; the old value is dropped after it was replaced.
        drop(unsafe { std::mem::replace(&mut *self.host.get(), host) });
        Ok(())
    }

    /// Whether tasks that compute are to be preempted from now on.
    fn watch_or_rest(&self, driven: bool) {
        if !self.is_main_thread {
            return;
        }
        if driven {
            preempt::watch(&self.scheduler);
        } else {
            preempt::rest();
        }
    }

    /// A stack that is ready to take the hand-off. Only for the base.
    pub(super) fn stack_for_base(&self, py: Python<'_>) -> PyResult<Object> {
        if let Some(stack) = self.pop_idle() {
            return Ok(stack);
        }
        // SAFETY: the function is a valid object, the base a greenlet of this thread.
        let stack = unsafe { stack::new(stack_function(py)?, self.base.get()) };
        if stack.is_null() {
            return Err(PyErr::fetch(py));
        }
        self.stacks.set(self.stacks.get() + 1);
        Ok(stack)
    }

    /// The base runs one task, or has it run: returns when a stack switches back to the base.
    pub(super) fn run_from_base(&self, py: Python<'_>, task: TaskRef) -> PyResult<()> {
        let next = state(&task);
        let result = if next.is_frozen() {
            self.resume(task)
        } else if next.kind == Kind::Host {
            self.resume_host(task);
            return Ok(());
        } else {
            let stack = match next
                .take_stack()
                .map_or_else(|| self.stack_for_base(py), Ok)
            {
                Ok(stack) => stack,
                Err(error) => {
                    finish::finish(py, self, task, Err(error));
                    return Ok(());
                }
            };
            self.set_hand_off(task);
            // SAFETY: an idle stack, or one that has not started.
            let result = unsafe { stack::switch(stack) };
            // A pooled stack gave its reference to the pool, to be taken back by `run_stack`; a new
            // one that starts takes its own.
            result
        };
        if result.is_null() {
            return Err(PyErr::fetch(py));
        }
        release(result);
        Ok(())
    }

    /// Runs tasks until `done` says so; waits for events in between. The native driver.
    pub fn run(&self, py: Python<'_>, main: &TaskRef) -> PyResult<()> {
        if self.driver.get() != Driver::None {
            return Err(PyRuntimeError::new_err(
                "aevent.run() was called in an OS thread whose loop is running already. Call the \
                 function directly, spawn it, or run it in a thread of its own.",
            ));
        }
        self.driver.set(Driver::Native);
        self.scheduler.set_host_has_the_thread(false);
        self.watch_or_rest(true);
        let base = stack::current();
        self.base.set(base);
        let result = loop {
            if main.is_done() {
                break Ok(());
            }
            self.stop.set(false);
            let next = match self.take_hand_off() {
                Some(task) => Next::Task(task),
                None => self.pick(),
            };
            if let Next::Task(task) = next
                && let Err(error) = self.run_from_base(py, task)
            {
                break Err(error);
            }
            // SAFETY: one thread, nothing borrowed.
            if let Some(error) = unsafe { (*self.failure.get()).take() } {
                break Err(error);
            }
        };
        self.tracing.before(None);
        // What was cancelled last is not to wait for the next run to be dropped.
        self.scheduler.run_futures();
        self.stop.set(false);
        self.driver.set(Driver::None);
        self.watch_or_rest(false);
        self.base.set(null_mut());
        release(base);
        result
    }

    /// `run` shall look whether it is done.
    pub fn stop(&self) {
        if self.driver.get() == Driver::Native {
            self.stop.set(true);
        }
    }

    /// One turn on behalf of a host: takes in what has happened and runs tasks for one time slice.
    ///
    /// Returns whether more tasks are ready, in which case the host shall call again soon. When it
    /// returns false, the scheduler's descriptor becomes readable when there is something to do.
    pub fn tick(&self, py: Python<'_>) -> PyResult<bool> {
        if self.driver.get() != Driver::Host || !self.base.get().is_null() {
            return Err(PyRuntimeError::new_err(
                "tick() is for the host that drives this thread's loop, and not from inside a tick",
            ));
        }
        self.sharing.share(py);
        let base = stack::current();
        self.base.set(base);
        self.scheduler.set_host_has_the_thread(false);
        // A host's task may have called something that ends up here (trio's guest mode does).
        let outer = self.take_current();
        let began = clock::coarse();
        let mut result = self.look_in_tick(py);
        while result.is_ok() {
            let next = match self.take_hand_off() {
                Some(task) => Next::Task(task),
                None => self.pick(),
            };
            match next {
                Next::Task(task) => result = self.run_from_base(py, task),
                // Nobody is left, and some of the slice: what they have sent each other may have arrived,
                // and a look costs much less than the host's turn.
                Next::Base if !self.scheduler.has_ready() && clock::coarse() == began => {
                    result = self.look_in_tick(py);
                    if !self.scheduler.has_ready() {
                        break;
                    }
                }
                Next::Base => break,
            }
            // SAFETY: one thread, nothing borrowed.
            if let Some(error) = unsafe { (*self.failure.get()).take() } {
                self.stop.set(false);
                result = Err(error);
            }
        }
        self.tracing.before(None);
        self.base.set(null_mut());
        if let Some(outer) = outer {
            self.set_current(outer);
        }
        release(base);
        let more = self.scheduler.has_work();
        self.scheduler.arm_host_timer();
        self.scheduler.set_host_has_the_thread(true);
        result.map(|()| more)
    }

    fn look_in_tick(&self, py: Python<'_>) -> PyResult<()> {
        let result = self.scheduler.look();
        result.map_err(|error| errors::from_io(py, &error))
    }

    /// Runs one step of a host's coroutine on a stack of ours: see `portal`. `kept` is the stack of
    /// its earlier steps, or null. The caller is the
    /// greenlet that the host stepped the portal in, and gets the control back.
    pub fn step_portal(&self, py: Python<'_>, task: TaskRef, kept: Object) -> PyResult<()> {
        let outer = self.base.get();
        let home = stack::current();
        if outer.is_null() {
            self.base.set(home);
        }
        let stack = if kept.is_null() {
            self.stack_for_base(py)
        } else {
            Ok(kept)
        };
        if outer.is_null() {
            self.base.set(null_mut());
        }
        let stack = match stack {
            Ok(stack) => stack,
            Err(error) => {
                release(home);
                return Err(error);
            }
        };
        self.set_hand_off(task);
        // SAFETY: an idle stack, or one that has not started.
        let result = unsafe { stack::switch(stack) };
        release(home);
        if result.is_null() {
            return Err(PyErr::fetch(py));
        }
        release(result);
        Ok(())
    }

    /// Ends the idle stacks. Only while the loop has no driver.
    pub fn drop_idle_stacks(&self, py: Python<'_>) {
        let base = stack::current();
        while let Some(stack) = self.pop_idle() {
            self.stacks.set(self.stacks.get() - 1);
            // An idle stack without a hand-off, while the loop has no driver, returns.
            // SAFETY: an idle stack is a suspended greenlet of this thread; `base` is running.
            unsafe {
                stack::set_parent(stack, base);
                let result = stack::switch(stack);
                if result.is_null() {
                    PyErr::fetch(py).write_unraisable(py, None);
                } else {
                    ffi::Py_DECREF(result);
                }
            }
        }
        release(base);
    }
}
