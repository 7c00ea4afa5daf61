//! `CancelScope`: a node of the cancel tree for tasks of ours, and a handle of the host's own scope
//! for a host's tasks.

mod deadline;
mod entering;

use std::cell::UnsafeCell;

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::timers::TimerKey;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::awaitable;
use crate::ended_thread;
use crate::run_loop;
use crate::task::{Kind, SchedulerRef, ScopeRef, TaskRef, state};
use crate::wait;
use deadline::{check_duration, to_nanos};

pub use deadline::{current_effective_deadline, deadline_here, set_beyond, to_seconds};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not entered.
    New,
    /// Entered, or the scope of a child that was spawned.
    Active,
    /// Left.
    Exited,
}

struct Inner {
    stage: Stage,
    deadline: u64,
    /// Until it is entered: how long after that the deadline is, if it was given so.
    relative: Option<f64>,
    shield: bool,
    cancel_called: bool,
    /// By a call of `cancel`, not by the deadline.
    cancel_requested: bool,
    cancelled_caught: bool,
    /// Raises TimeoutError instead of what its own deadline has raised.
    fails: bool,
    /// Until it is entered: what `cancel` was given.
    reason: Option<Box<str>>,
    node: Option<ScopeRef>,
    scheduler: Option<SchedulerRef>,
    timer: Option<TimerKey>,
    /// The task that entered it, and the scope that it was in before.
    entered: Option<(TaskRef, Option<ScopeRef>)>,
    /// The host's scope.
    host: Option<Py<PyAny>>,
}

impl Inner {
    fn new(stage: Stage) -> Self {
        Self {
            stage,
            deadline: NEVER,
            relative: None,
            shield: false,
            cancel_called: false,
            cancel_requested: false,
            cancelled_caught: false,
            fails: false,
            reason: None,
            node: None,
            scheduler: None,
            timer: None,
            entered: None,
            host: None,
        }
    }

    /// A deadline that was given as a duration begins now.
    fn begin(&mut self) {
        if let Some(seconds) = self.relative.take() {
            self.deadline = wait::deadline_after(seconds);
        }
    }
}

/// See `_core.pyi`.
#[pyclass(module = "aevent", frozen, weakref, subclass)]
pub struct CancelScope(UnsafeCell<Inner>);

// SAFETY: `inner` is borrowed for single reads and writes with the interpreter attached.
unsafe impl Sync for CancelScope {}
// SAFETY: as above.
unsafe impl Send for CancelScope {}

impl CancelScope {
    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.0.get() }
    }

    /// The scope of a task that was spawned.
    pub fn of_task(node: ScopeRef, scheduler: SchedulerRef) -> Self {
        Self(UnsafeCell::new(Inner {
            node: Some(node),
            scheduler: Some(scheduler),
            ..Inner::new(Stage::Active)
        }))
    }

    /// One that is not entered.
    pub fn unbound() -> Self {
        Self(UnsafeCell::new(Inner::new(Stage::New)))
    }

    /// Whether it is left: nobody but the task itself, or the host, knows when that of a child is.
    fn stage_now(&self, py: Python<'_>) -> PyResult<Stage> {
        if let Some(host) = self.host(py)
            && host.getattr(py, "is_left")?.is_truthy(py)?
        {
            return Ok(Stage::Exited);
        }
        Ok(self.stage())
    }

    /// The same without asking a host.
    fn stage(&self) -> Stage {
        let inner = self.inner();
        if inner.entered.is_none() && inner.node.as_ref().is_some_and(ScopeRef::is_closed) {
            return Stage::Exited;
        }
        inner.stage
    }

    /// The node in the cancel tree, if it is a scope of ours and entered.
    pub fn node(&self) -> Option<ScopeRef> {
        self.inner().node.clone()
    }

    fn host(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner().host.as_ref().map(|host| host.clone_ref(py))
    }

    /// Sets the timer for the deadline, or cancels at once if it has passed.
    fn set_timer(&self) {
        let inner = self.inner();
        let (Some(node), Some(scheduler)) = (inner.node.clone(), inner.scheduler.clone()) else {
            return;
        };
        let is_mine = scheduler.is_mine();
        // Timers are the owner's. Where that is another thread, the former one finds out by itself
        // that it is none any more.
        if is_mine && let Some(timer) = inner.timer.take() {
            scheduler.forget_deadline(timer);
        }
        let deadline = inner.deadline;
        node.set_deadline(deadline);
        if self.stage() != Stage::Active || deadline == NEVER {
            return;
        }
        if deadline <= clock::now() {
            wake(&node);
        } else if is_mine {
            self.inner().timer = Some(scheduler.cancel_at(deadline, node));
        } else {
            scheduler.cancel_at_elsewhere(deadline, node);
        }
    }
}

/// Any OS thread may be here, and lets go of the interpreter when it wakes the host's.
fn call_host<'py>(host: &Bound<'py, PyAny>, name: &str, args: Bound<'py, PyTuple>) -> PyResult<()> {
    ended_thread::call_method(host, name, &args).map(drop)
}

#[cold]
fn absolute_deadline() -> PyErr {
    PyRuntimeError::new_err(
        "this CancelScope has a deadline, and no relative one before it is entered: use deadline",
    )
}

/// What `Cancelled` says of a scope that a task has cancelled for a reason.
fn explanation(py: Python<'_>, reason: &Bound<'_, PyAny>) -> PyResult<Box<str>> {
    let name = run_loop::current().and_then(|task| {
        let state = state(&task);
        state.name.as_ref().map(|name| name.clone_ref(py))
    });
    let reason = reason.str()?;
    let text = match name {
        Some(name) => format!("{reason} (by the task {})", name.bind(py).str()?),
        None => reason.to_string(),
    };
    Ok(text.into_boxed_str())
}

fn wake(node: &ScopeRef) {
    for task in node.cancel() {
        task.unpark_owned();
    }
}

#[pymethods]
impl CancelScope {
    #[new]
    #[pyo3(signature = (*, deadline=f64::INFINITY, relative_deadline=f64::INFINITY, shield=false))]
    fn new(deadline: f64, relative_deadline: f64, shield: bool) -> PyResult<Self> {
        let relative = check_duration("relative_deadline", relative_deadline)?;
        if relative.is_some() && deadline != f64::INFINITY {
            return Err(PyValueError::new_err(
                "a CancelScope cannot have both a deadline and a relative deadline",
            ));
        }
        Ok(Self(UnsafeCell::new(Inner {
            deadline: to_nanos(deadline)?,
            relative,
            shield,
            ..Inner::new(Stage::New)
        })))
    }

    /// A handle of a host's scope that is entered already.
    #[staticmethod]
    fn _of_host(host: Py<PyAny>) -> Self {
        Self(UnsafeCell::new(Inner {
            host: Some(host),
            ..Inner::new(Stage::Active)
        }))
    }

    /// Cancels everything in the scope.
    #[pyo3(signature = (reason=None))]
    fn cancel(&self, py: Python<'_>, reason: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        if let Some(reason) = reason {
            let reason = explanation(py, reason)?;
            match self.node() {
                Some(node) => node.set_reason(reason),
                None => self.inner().reason = Some(reason),
            }
        }
        // If the deadline came first, it is the deadline that has cancelled.
        if !self.cancel_called(py)? {
            self.inner().cancel_requested = true;
        }
        self.inner().cancel_called = true;
        if let Some(node) = self.node() {
            wake(&node);
        } else if let Some(host) = self.host(py) {
            call_host(host.bind(py), "cancel", PyTuple::empty(py))?;
            // The host hears of it when we have let go of the thread. If the running task of ours is
            // inside, its own next wait raises.
            current_effective_deadline(py)?;
        }
        Ok(())
    }

    #[getter]
    fn cancel_called(&self, py: Python<'_>) -> PyResult<bool> {
        if self.inner().cancel_called {
            return Ok(true);
        }
        if let Some(host) = self.host(py) {
            return host.getattr(py, "cancel_called")?.extract(py);
        }
        let node = self.node();
        if node.as_ref().is_some_and(ScopeRef::cancel_called) {
            return Ok(true);
        }
        let is_left = self.stage() == Stage::Exited;
        let inner = self.inner();
        let is_over = !is_left && inner.deadline != NEVER && inner.deadline <= clock::now();
        if is_over {
            // Nobody has looked at the clock yet; now we have.
            inner.cancel_called = true;
            if let Some(node) = node {
                wake(&node);
            }
        }
        Ok(is_over)
    }

    /// Whether `cancel` was called, rather than that the deadline came.
    #[getter]
    fn _cancel_requested(&self) -> bool {
        self.inner().cancel_requested
    }

    #[getter]
    fn cancelled_caught(&self, py: Python<'_>) -> PyResult<bool> {
        match self.host(py) {
            Some(host) => host.getattr(py, "cancelled_caught")?.extract(py),
            None => {
                let of_child = self.node().is_some_and(|node| node.caught());
                Ok(of_child || self.inner().cancelled_caught)
            }
        }
    }

    /// Has it raise TimeoutError if its own deadline ends the body.
    fn _fail_at_deadline(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf.get().inner().fails = true;
        slf
    }

    /// See `_core.pyi`.
    fn _set_beyond(&self, py: Python<'_>, deadline: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(node) = self.node() {
            set_beyond(&node, deadline);
        } else if let Some(host) = self.host(py) {
            host.call_method1(py, "set_beyond", (deadline,))?;
        }
        Ok(())
    }

    #[getter]
    fn deadline(&self) -> PyResult<f64> {
        if self.inner().relative.is_some() {
            return Err(PyRuntimeError::new_err(
                "this CancelScope has a relative deadline, which begins when it is entered: use \
                 relative_deadline before that",
            ));
        }
        Ok(to_seconds(self.inner().deadline))
    }

    #[setter]
    fn set_deadline(&self, py: Python<'_>, deadline: f64) -> PyResult<()> {
        self.deadline()?;
        let nanos = to_nanos(deadline)?;
        self.inner().deadline = nanos;
        if let Some(host) = self.host(py) {
            call_host(
                host.bind(py),
                "set_deadline",
                (deadline,).into_pyobject(py)?,
            )?;
        }
        self.set_timer();
        Ok(())
    }

    #[getter]
    fn relative_deadline(&self) -> PyResult<f64> {
        let inner = self.inner();
        match inner.relative {
            Some(seconds) => Ok(seconds),
            None if inner.deadline == NEVER => Ok(f64::INFINITY),
            None if inner.stage == Stage::New => Err(absolute_deadline()),
            None => Ok(to_seconds(inner.deadline) - to_seconds(clock::now())),
        }
    }

    #[setter]
    fn set_relative_deadline(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let relative = check_duration("relative_deadline", seconds)?;
        let inner = self.inner();
        if inner.stage == Stage::New {
            if inner.deadline != NEVER {
                return Err(absolute_deadline());
            }
            inner.relative = relative;
            return Ok(());
        }
        self.set_deadline(py, to_seconds(clock::now()) + seconds)
    }

    #[getter]
    fn is_relative(&self) -> Option<bool> {
        let inner = self.inner();
        (inner.stage == Stage::New).then_some(inner.relative.is_some())
    }

    #[getter]
    fn shield(&self) -> bool {
        self.inner().shield
    }

    #[setter]
    fn set_shield(&self, py: Python<'_>, shield: bool) -> PyResult<()> {
        self.inner().shield = shield;
        if let Some(node) = self.node() {
            for task in node.set_shield(shield) {
                task.unpark_owned();
            }
        } else if let Some(host) = self.host(py) {
            call_host(host.bind(py), "set_shield", (shield,).into_pyobject(py)?)?;
        }
        Ok(())
    }

    fn __enter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let this = slf.get();
        if this.inner().stage != Stage::New {
            return Err(PyRuntimeError::new_err(
                "a CancelScope can be entered once only, and the scope of a spawned task is entered \
                 by that task: make a new one",
            ));
        }
        this.inner().begin();
        let current = run_loop::current();
        match current {
            Some(task) if state(&task).kind != Kind::Host => {
                this.enter_ours(task);
            }
            task => this.enter_host(py, task.as_ref())?,
        }
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Bound<'_, PyAny>,
        error: Bound<'_, PyAny>,
        traceback: Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let absorbed = match self.host(py) {
            Some(host) => {
                self.inner().stage = Stage::Exited;
                host.call_method1(py, "__exit__", (kind, error, traceback))?
                    .bind(py)
                    .is_truthy()?
            }
            None => self.exit_ours(&error)?,
        };
        // Only a deadline of its own is a timeout; somebody's cancel() is none, nor is what a scope
        // further out has caused. The time is not asked: a host's clock may run a little ahead.
        if self.inner().fails && !self.inner().cancel_requested && self.cancelled_caught(py)? {
            return Err(PyTimeoutError::new_err("deadline exceeded"));
        }
        Ok(absorbed)
    }

    /// `await tg.spawn(f)`: the scope itself, at once.
    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        awaitable::Immediate {
            value: Some(slf.clone().into_any().unbind()),
        }
        .into_pyobject(slf.py())
        .map(Bound::into_any)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the interpreter attached, and reads only.
        match unsafe { &(*self.0.get()).host } {
            Some(host) => visit.call(host),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        drop(self.inner().host.take());
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let stage = match self.stage_now(py)? {
            Stage::New => "unbound",
            Stage::Active => "active",
            Stage::Exited => "exited",
        };
        let cancelled = if self.cancel_called(py)? {
            ", cancelled"
        } else {
            ""
        };
        Ok(format!("<aevent.CancelScope, {stage}{cancelled}>"))
    }
}
