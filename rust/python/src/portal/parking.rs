//! A synchronous call in a host's task parks: its portal's step leaves the stack frozen, and yields to
//! the host.

use std::ptr::null_mut;

use pyo3::prelude::*;

use super::{Message, portal_of};
use crate::errors;
use crate::run_loop::{self, Loop};
use crate::running_loop;
use crate::stack;
use crate::task::{TaskRef, release, state};

/// Parks a host's task, which was taken out of `current`: its portal yields to the host.
pub fn park(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> PyResult<()> {
    park_by(py, event_loop, me, Message::Park)
}

/// Lets others run; the task is in the run queue already. The host's cancellation does not end it.
pub fn pause(py: Python<'_>, event_loop: &Loop, me: TaskRef) -> PyResult<()> {
    park_by(py, event_loop, me, Message::Pause)
}

fn park_by(py: Python<'_>, event_loop: &Loop, me: TaskRef, message: Message) -> PyResult<()> {
    leave(py, event_loop, me, message)?;
    let task = run_loop::current().expect("it was made the running task when it was resumed");
    let portal = portal_of(py, &task);
    let incoming = portal.and_then(|portal| portal.get().inner().incoming.take());
    match incoming {
        Some(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn leave(
    py: Python<'_>,
    event_loop: &Loop,
    me: TaskRef,
    message: Message,
) -> PyResult<()> {
    let Some(portal) = portal_of(py, &me) else {
        event_loop.set_current(me);
        return Err(errors::no_task("a blocking call"));
    };
    let home = {
        let inner = portal.get().inner();
        inner.message = message;
        inner.home
    };
    drop(portal);
    let running_loop = state(&me).running_loop;
    if !running_loop.is_null() {
        running_loop::hide(&me);
    }
    state(&me).frozen = stack::current();
    // SAFETY: the host's greenlet is suspended in `switch_in`.
    let result = unsafe { stack::switch(home) };
    if !running_loop.is_null() {
        // SAFETY: the task that goes on is the one that has noted it.
        unsafe { running_loop::show(&me, running_loop) };
    }
    let frozen = std::mem::replace(&mut state(&me).frozen, null_mut());
    release(frozen);
    if result.is_null() {
        return Err(PyErr::fetch(py));
    }
    release(result);
    Ok(())
}
