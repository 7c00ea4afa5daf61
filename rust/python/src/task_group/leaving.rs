//! A task group is left: its body has ended, its children end, and so does the group.

use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::Waiter;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Stage, TaskGroup, not_entered};
use crate::children::ChildrenRef;
use crate::errors;
use crate::run_loop;
use crate::task::state;
use crate::wait;

impl TaskGroup {
    /// The coroutine that leaves the group of the host's; `None` if it is one of ours.
    pub(super) fn leave_host<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.host(py) {
            Some(host) => {
                self.check_not_left()?;
                host.call_method0(py, "check_task")?;
                self.inner().stage = Stage::Left;
                Ok(Some(
                    host.call_method1(py, "leave", (error,))?.into_bound(py),
                ))
            }
            None => Ok(None),
        }
    }

    fn check_not_left(&self) -> PyResult<()> {
        if self.inner().stage == Stage::Left {
            return Err(PyRuntimeError::new_err("this TaskGroup was left already"));
        }
        Ok(())
    }

    /// The body has ended, with `error` or None.
    pub(super) fn end_body(&self, error: &Bound<'_, PyAny>) -> PyResult<ChildrenRef> {
        let children = self.children()?;
        self.check_not_left()?;
        let scope = self.inner().scope.as_ref().ok_or_else(not_entered)?;
        if !scope.get().is_entered_here() {
            return Err(PyRuntimeError::new_err(
                "a TaskGroup is left by another task than the one that entered it",
            ));
        }
        self.inner().stage = Stage::Left;
        if error.is_none() {
            return Ok(children);
        }
        let (cancelled, rest) = errors::split(error);
        if cancelled.is_some() {
            children.cancel();
        }
        if let Some(rest) = rest {
            children.fail(PyErr::from_value(rest));
        }
        Ok(children)
    }

    /// All have ended, and so ends the group. Whether the body's exception is absorbed.
    pub(super) fn conclude(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<bool> {
        let children = self.children()?;
        let result = self.conclude_before_close(py, &children, body);
        children.close();
        result
    }

    fn conclude_before_close(
        &self,
        py: Python<'_>,
        children: &ChildrenRef,
        body: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let errors = children.take_errors();
        let of_child = children.take_cancelled();
        let scope = self.inner().scope.as_ref().map(|scope| scope.clone_ref(py));
        let scope = scope.ok_or_else(not_entered)?;
        let of_body = match body.is_none() {
            true => None,
            false => errors::split(body).0,
        };
        let is_body = of_body.as_ref().is_some_and(|error| error.is(body));
        let cancelled = of_body
            .or_else(|| of_child.map(|error| error.into_value(py).into_bound(py).into_any()));
        let none = py.None().into_bound(py);
        let absorbed = scope.get().exit_ours(cancelled.as_ref().unwrap_or(&none))?;
        if !errors.is_empty() {
            // What went wrong counts more than that it was cancelled meanwhile: a cancellation is
            // found again at the next wait.
            let errors = PyList::new(py, errors.into_iter().map(|error| error.into_value(py)))?;
            let group =
                errors::group_type(py)?.call1(("unhandled errors in a TaskGroup", errors))?;
            let group = PyErr::from_value(group);
            // As by `from None`: whatever is being handled has been told by its parts.
            group.set_cause(py, None);
            return Err(group);
        }
        match cancelled {
            Some(error) if !absorbed && !is_body => Err(PyErr::from_value(error)),
            Some(_) => Ok(absorbed),
            None => Ok(true),
        }
    }
}

/// Parks the running task of ours until the last of the children has ended.
pub(super) fn wait_for(py: Python<'_>, children: &ChildrenRef) -> PyResult<()> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::current()) else {
        return Err(errors::no_task("leaving a TaskGroup"));
    };
    if children.is_empty()
        && let Err(raised) = event_loop.yield_now(py)
    {
        children.fail(raised.into());
    }
    // Cancellation reaches the children without us; what is left to do is to wait. An interrupt
    // ends the group, but not before its children.
    let mut waiter = None;
    loop {
        if let Some(interrupt) = state(&task).interrupt.take() {
            children.fail(interrupt);
        }
        if children.is_empty() {
            break;
        }
        let waited = wait::park_until(py, event_loop, &task, NEVER, true, |cx| {
            if state(&task).interrupt.is_some() {
                return Poll::Ready(());
            }
            poll_empty(children, &mut waiter, cx)
        });
        if let Err(raised) = waited {
            children.fail(raised.into());
        }
    }
    Ok(())
}

/// Ready when no child is left.
fn poll_empty(
    children: &ChildrenRef,
    waiter: &mut Option<Waiter>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if children.is_empty() {
            *waiter = None;
            return Poll::Ready(());
        }
        let listening = waiter.get_or_insert_with(|| children.changed().listen());
        if children.is_empty() {
            continue;
        }
        if listening.poll(cx).is_pending() {
            return Poll::Pending;
        }
        *waiter = None;
    }
}

/// The awaitable of `__aexit__` in a task of ours. A schedule point, but no place where the task
/// is cancelled: a group passes on what its children and its body raise, and nothing of its own.
#[pyclass(module = "aevent._core")]
pub(super) struct Leave {
    group: Option<Py<TaskGroup>>,
    children: ChildrenRef,
    error: Option<Py<PyAny>>,
    waiter: Option<Waiter>,
    suspended: bool,
}

impl Leave {
    /// `error` is what the body has ended with, or None.
    pub(super) fn new(
        group: Py<TaskGroup>,
        children: ChildrenRef,
        error: Bound<'_, PyAny>,
    ) -> Self {
        Self {
            group: Some(group),
            children,
            error: (!error.is_none()).then(|| error.unbind()),
            waiter: None,
            suspended: false,
        }
    }
}

#[pymethods]
impl Leave {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Some(task) = run_loop::current() else {
            return Err(errors::no_task("leaving a TaskGroup"));
        };
        let children = slf.borrow().children.clone();
        if let Some(interrupt) = state(&task).interrupt.take() {
            children.fail(interrupt);
        }
        {
            let mut this = slf.borrow_mut();
            let waker = task.waker();
            let mut cx = Context::from_waker(&waker);
            if poll_empty(&children, &mut this.waiter, &mut cx).is_pending() {
                this.suspended = true;
                return Ok(py.None());
            }
            if !std::mem::replace(&mut this.suspended, true) {
                return Ok(pyo3::types::PyBool::new(py, true)
                    .to_owned()
                    .into_any()
                    .unbind());
            }
        }
        let (group, error) = {
            let mut this = slf.borrow_mut();
            (this.group.take(), this.error.take())
        };
        let Some(group) = group else {
            return Err(PyRuntimeError::new_err("this TaskGroup was left already"));
        };
        let body = error.unwrap_or_else(|| py.None()).into_bound(py);
        let absorbed = group.get().conclude(py, &body)?;
        Err(PyStopIteration::new_err((absorbed,)))
    }
}
