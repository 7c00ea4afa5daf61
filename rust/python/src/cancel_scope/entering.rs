//! A scope is entered and left: in a task of ours by a node of the cancel tree, in a host's task by a
//! scope of the host's.

use std::sync::Arc;

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::clock::NEVER;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::deadline::to_seconds;
use super::{CancelScope, Stage, wake};
use crate::errors::{self, Cancelled};
use crate::portal;
use crate::run_loop;
use crate::task::{ScopeRef, TaskRef, state};

impl CancelScope {
    /// Enters it in `task`, which is one of ours.
    pub fn enter_ours(&self, task: TaskRef) -> ScopeRef {
        let outer = state(&task).scope.clone();
        let (deadline, shield, cancelled) = {
            let inner = self.inner();
            (inner.deadline, inner.shield, inner.cancel_called)
        };
        let node = match &outer {
            Some(outer) => Scope::child(outer, deadline, shield, Some(task.clone())),
            None => Scope::root(),
        };
        state(&task).scope = Some(node.clone());
        let inner = self.inner();
        inner.scheduler = Some(task.scheduler().clone());
        inner.node = Some(node.clone());
        inner.entered = Some((task, outer));
        inner.stage = Stage::Active;
        if cancelled {
            if let Some(reason) = self.inner().reason.take() {
                node.set_reason(reason);
            }
            wake(&node);
        } else if deadline != NEVER {
            self.set_timer();
        }
        node
    }

    /// Whether the running task is the one of ours that has entered it.
    pub fn is_entered_here(&self) -> bool {
        let entered = self.inner().entered.as_ref();
        entered
            .is_some_and(|(task, _)| run_loop::current().is_some_and(|now| Arc::ptr_eq(&now, task)))
    }

    /// Leaves it with `error`, which may be None. Whether the error is absorbed; or another error
    /// that takes its place.
    pub fn exit_ours(&self, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some((task, outer)) = self.inner().entered.take() else {
            return Err(PyRuntimeError::new_err(
                "this CancelScope is left but was not entered",
            ));
        };
        let node = self.node().expect("an entered scope has a node");
        if !run_loop::current().is_some_and(|now| Arc::ptr_eq(&now, &task)) {
            self.inner().entered = Some((task, outer));
            return Err(misnested());
        }
        let innermost = state(&task).scope.clone();
        let nested = innermost.as_ref() == Some(&node);
        // If it is neither the innermost nor around it, one further out was left too early, and has
        // said so.
        let encloses = nested || innermost.as_ref().is_some_and(|scope| node.encloses(scope));
        let timer = {
            let inner = self.inner();
            inner.stage = Stage::Exited;
            inner.timer.take()
        };
        if let (Some(timer), Some(scheduler)) = (timer, self.inner().scheduler.clone()) {
            scheduler.forget_deadline(timer);
        }
        if encloses {
            state(&task).scope = outer;
        }
        let absorb =
            !error.is_none() && node.cancel_called() && !node.parent_is_cancelled() && nested;
        self.inner().cancel_called |= node.cancel_called();
        for task in node.close() {
            task.unpark_owned();
        }
        if encloses && !nested {
            // Those further in are out of it from now on, and say nothing when they are left.
            return Err(misnested());
        }
        if !absorb {
            return Ok(false);
        }
        if error.is_instance_of::<Cancelled>() {
            self.inner().cancelled_caught = true;
            return Ok(true);
        }
        self.absorb_from_group(error)
    }

    /// Takes what it has caused out of an exception group, and has the rest raised.
    #[cold]
    fn absorb_from_group(&self, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (cancelled, rest) = errors::split(error);
        if cancelled.is_none() {
            return Ok(false);
        }
        self.inner().cancelled_caught = true;
        match rest {
            Some(rest) => Err(PyErr::from_value(rest)),
            None => Ok(true),
        }
    }

    /// Opens a scope of the host's in its running task, which is `task` if that has a portal.
    pub(super) fn enter_host(&self, py: Python<'_>, task: Option<&TaskRef>) -> PyResult<()> {
        let host =
            portal::running_host(py, task).ok_or_else(|| errors::not_in_task("a CancelScope"))?;
        let (deadline, shield) = {
            let inner = self.inner();
            (inner.deadline, inner.shield)
        };
        let scope = host.call_method1(py, "open_scope", (to_seconds(deadline), shield))?;
        scope.call_method0(py, "__enter__")?;
        {
            let inner = self.inner();
            inner.host = Some(scope.clone_ref(py));
            inner.stage = Stage::Active;
        }
        // Others may have run meanwhile: entering is the host's code, which may import.
        let now = {
            let inner = self.inner();
            (inner.deadline, inner.shield, inner.cancel_called)
        };
        if now.0 != deadline {
            scope.call_method1(py, "set_deadline", (to_seconds(now.0),))?;
        }
        if now.1 != shield {
            scope.call_method1(py, "set_shield", (now.1,))?;
        }
        if now.2 {
            scope.call_method0(py, "cancel")?;
        }
        Ok(())
    }
}

#[cold]
fn misnested() -> PyErr {
    PyRuntimeError::new_err(
        "this CancelScope is left while one that was entered later is not, or by another task: \
         leave scopes in the reverse order, in the task that entered them",
    )
}
