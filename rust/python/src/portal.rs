//! Portals: a host's coroutine whose synchronous calls may park.
//!
//! The dance has three greenlets. The *host's greenlet* calls [`Portal::send`], as it would call a
//! coroutine's. The step itself runs on a *stack* from the pool. If the step ends without having
//! parked, the stack idles again and the host's greenlet returns what the coroutine yielded. If a
//! synchronous call in it parks, the stack stays frozen, and the host's greenlet yields to the host
//! whatever makes it wait (the *trap*: a coroutine of the adapter, `Backend.park`), until the task is
//! unparked and the host steps the portal again. If synchronous code calls `await_`, the awaitable's
//! yields take the same way.

pub mod awaiting;
mod parking;
pub mod replacement;

use std::cell::UnsafeCell;
use std::ptr::null_mut;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyStopIteration, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::children::{self, ChildrenRef};
use crate::run_loop::{self, Loop};
use crate::stack::{self, Object};
use crate::task::{Entry, Kind, Payload, TaskRef, release, state};
use crate::waker::HostWaker;
use awaiting::forward;

pub use awaiting::{await_in_host, checkpoint};
pub use parking::{park, pause};

/// What comes from the stack to the host's greenlet.
enum Message {
    None,
    /// The coroutine, or an awaitable under `await_`, has yielded this to the host.
    Yield(Py<PyAny>),
    Return(Py<PyAny>),
    Raise(PyErr),
    /// A synchronous call has parked.
    Park,
    /// A synchronous call that need not wait lets others run. The host's cancellation is none of its
    /// business: the next call that waits hears of it.
    Pause,
}

struct Inner {
    /// The host's greenlet, during a step. Owned by the step.
    home: Object,
    /// The host task's context object, the same on both sides. Owned by the step.
    context: Object,
    message: Message,
    /// What the host sent, for the coroutine or for `await_`.
    incoming: Option<PyResult<Py<PyAny>>>,
    /// The stack that the steps run on, between two of them. Always the same, so that greenlets
    /// which the coroutine makes find their parent again after an `await`. Owned.
    stack: Object,
    /// The adapter's coroutine that makes the host wait for a parked call.
    trap: Option<Py<PyAny>>,
    finished: bool,
}

/// A coroutine for a host's task, around a coroutine whose synchronous calls may park.
#[pyclass(module = "aevent._core", frozen, weakref)]
pub struct Portal {
    coroutine: Py<PyAny>,
    host: Py<PyAny>,
    task: TaskRef,
    inner: UnsafeCell<Inner>,
}

// SAFETY: a portal is stepped by the thread of its host; `inner` is borrowed for single reads and
// writes only, with the interpreter attached.
unsafe impl Sync for Portal {}
// SAFETY: as above.
unsafe impl Send for Portal {}

/// How one step ended, as far as the host is concerned.
enum Stepped {
    Yielded(Py<PyAny>),
    Returned(Py<PyAny>),
}

impl Portal {
    /// What stands for the host's task among ours.
    pub fn task(&self) -> &TaskRef {
        &self.task
    }

    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.inner.get() }
    }

    /// One step, on the host's greenlet.
    fn step(slf: &Bound<'_, Self>, mut incoming: PyResult<Py<PyAny>>) -> PyResult<Stepped> {
        let py = slf.py();
        let this = slf.get();
        if this.inner().finished {
            return Err(PyRuntimeError::new_err(
                "cannot reuse already awaited coroutine",
            ));
        }
        if !this.inner().home.is_null() {
            return Err(PyValueError::new_err("coroutine already executing"));
        }
        let Some(event_loop) = run_loop::existing() else {
            return Err(children::no_runner("a portal"));
        };
        loop {
            let trap = this.inner().trap.as_ref().map(|trap| trap.clone_ref(py));
            let mut thrown = None;
            if let Some(trap) = trap {
                match forward(py, trap.bind(py), incoming) {
                    Message::Yield(value) => return Ok(Stepped::Yielded(value)),
                    Message::Raise(error) => thrown = Some(Err(error)),
                    _ => {}
                }
                drop(this.inner().trap.take());
            } else {
                thrown = Some(incoming);
            }
            this.inner().incoming = thrown;
            Self::switch_in(slf, event_loop)?;
            let message = std::mem::replace(&mut this.inner().message, Message::None);
            match message {
                Message::Yield(value) => return Ok(Stepped::Yielded(value)),
                Message::Return(value) => {
                    this.inner().finished = true;
                    return Ok(Stepped::Returned(value));
                }
                Message::Raise(error) => {
                    this.inner().finished = true;
                    return Err(error);
                }
                Message::Park | Message::Pause => {
                    let waker = HostWaker::of(this.task.clone());
                    let method = match message {
                        Message::Park => "park",
                        _ => "pause",
                    };
                    let trap = this.host.call_method1(py, method, (waker,))?;
                    this.inner().trap = Some(trap);
                    incoming = Ok(py.None());
                }
                Message::None => {
                    return Err(PyRuntimeError::new_err(
                        "a portal's step was ended from outside",
                    ));
                }
            }
        }
    }

    /// Lets the stack go on, or a new one begin, and returns when it has left a message.
    fn switch_in(slf: &Bound<'_, Self>, event_loop: &Loop) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let outer = event_loop.take_current();
        let task = this.task.clone();
        let home = stack::current();
        // SAFETY: it is the running greenlet.
        let context = unsafe { stack::context(home) };
        {
            let inner = this.inner();
            inner.home = home;
            inner.context = context;
        }
        state(&task).portal = Some(slf.clone().unbind());
        event_loop.scheduler.begin_slice();
        task.begin_run_unasked();
        let frozen = state(&task).frozen;
        let result = if frozen.is_null() {
            let kept = std::mem::replace(&mut this.inner().stack, null_mut());
            event_loop.step_portal(py, task.clone(), kept)
        } else {
            event_loop.set_current(task.clone());
            // SAFETY: the task owns the greenlet it is frozen with until it goes on.
            let result = unsafe { stack::switch(frozen) };
            if result.is_null() {
                Err(PyErr::fetch(py))
            } else {
                release(result);
                Ok(())
            }
        };
        if state(&task).frozen.is_null() {
            let portal = state(&task).portal.take();
            drop(portal);
        }
        {
            let inner = this.inner();
            inner.home = null_mut();
            inner.context = null_mut();
        }
        release(context);
        release(home);
        if let Some(outer) = outer {
            event_loop.set_current(outer);
        }
        result
    }
}

/// Runs the step on the running stack, which was handed `task`. Returns the host's greenlet, and
/// whether the portal keeps the stack for its next step.
#[inline(never)]
pub fn step_on_stack(event_loop: &Loop, task: TaskRef) -> (Object, bool) {
    // SAFETY: attached: the host has called us.
    let py = unsafe { Python::assume_attached() };
    let portal = portal_of(py, &task).expect("the hand-off of a portal's task comes from its step");
    let this = portal.get();
    let incoming = this.inner().incoming.take().unwrap_or(Ok(py.None()));
    // SAFETY: the step in `switch_in` owns it until we go back there.
    unsafe { stack::set_context(this.inner().context) };
    event_loop.set_current(task);
    let message = forward(py, this.coroutine.bind(py), incoming);
    let task = event_loop.take_current();
    if let Some(task) = &task
        && state(task).kind != Kind::Host
    {
        end_of_forked_child(py, message);
    }
    drop(task);
    // SAFETY: None lives for ever.
    unsafe { stack::set_context(py.None().as_ptr()) };
    let kept = matches!(message, Message::Yield(_));
    let inner = this.inner();
    inner.message = message;
    if kept {
        inner.stack = stack::current();
    }
    // Another greenlet of the host's may have stepped us since we froze: ask now.
    (inner.home, kept)
}

impl Drop for Portal {
    fn drop(&mut self) {
        // Dropped with the interpreter attached, like every object; the stack then ends.
        release(std::mem::replace(
            &mut self.inner.get_mut().stack,
            null_mut(),
        ));
    }
}

/// The coroutine has forked, and its step is over in the child: what lies below is the parent's.
#[cold]
fn end_of_forked_child(py: Python<'_>, message: Message) -> ! {
    let result = match message {
        Message::Return(value) => Ok(value),
        Message::Raise(error) => Err(error),
        _ => Err(PyRuntimeError::new_err(
            "a coroutine awaited its host in the child of a fork, where the host's loop does not \
             run. Do what the child has to do in synchronous code, and end it with os._exit().",
        )),
    };
    crate::finish::end_process(py, result)
}

#[pymethods]
impl Portal {
    #[new]
    #[pyo3(signature = (coroutine, host))]
    fn new(coroutine: Bound<'_, PyAny>, host: Py<PyAny>) -> PyResult<Self> {
        let py = coroutine.py();
        let event_loop = run_loop::obtain(py)?;
        let home: Option<ChildrenRef> = children::home(py);
        let task = aevent_runtime::task::Task::new(
            event_loop.scheduler.clone(),
            Payload::new(Kind::Host, Entry::None, null_mut()),
        );
        state(&task).home = home;
        Ok(Self {
            coroutine: coroutine.unbind(),
            host,
            task,
            inner: UnsafeCell::new(Inner {
                home: null_mut(),
                context: null_mut(),
                message: Message::None,
                incoming: None,
                stack: null_mut(),
                trap: None,
                finished: false,
            }),
        })
    }

    /// The coroutine inside.
    #[getter]
    fn coroutine(&self, py: Python<'_>) -> Py<PyAny> {
        self.coroutine.clone_ref(py)
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let none = slf.py().None();
        Self::send(slf, none)
    }

    fn send(slf: &Bound<'_, Self>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        match Self::step(slf, Ok(value))? {
            Stepped::Yielded(value) => Ok(value),
            Stepped::Returned(value) => Err(stop_iteration(slf.py(), value)),
        }
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        slf: &Bound<'_, Self>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let instance = match value {
            Some(value) if !value.is_none() => value,
            _ if kind.is_instance_of::<pyo3::types::PyType>() => kind.call0()?,
            _ => kind,
        };
        if let Some(traceback) = traceback
            && !traceback.is_none()
        {
            instance.setattr("__traceback__", traceback)?;
        }
        match Self::step(slf, Err(PyErr::from_value(instance)))? {
            Stepped::Yielded(value) => Ok(value),
            Stepped::Returned(value) => Err(stop_iteration(slf.py(), value)),
        }
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.inner().finished {
            return Ok(());
        }
        let frozen = !state(&this.task).frozen.is_null();
        if !frozen && this.inner().trap.is_none() {
            this.inner().finished = true;
            this.coroutine.call_method0(slf.py(), "close")?;
            return Ok(());
        }
        match Self::step(slf, Err(PyGeneratorExit::new_err(()))) {
            Ok(Stepped::Yielded(_)) => {
                Err(PyRuntimeError::new_err("coroutine ignored GeneratorExit"))
            }
            Ok(Stepped::Returned(_)) => Ok(()),
            Err(error) if error.is_instance_of::<PyGeneratorExit>(slf.py()) => Ok(()),
            Err(error) if error.is_instance_of::<PyStopIteration>(slf.py()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whatever a coroutine is asked for (`cr_frame`, `cr_await`, `__name__` …) the inner one has.
    fn __getattr__(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.host)?;
        // SAFETY: the collector runs with the interpreter attached, and reads only.
        if let Some(trap) = unsafe { &(*self.inner.get()).trap } {
            visit.call(trap)?;
        }
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "<aevent._core.Portal around {}>",
            self.coroutine.bind(py).repr()?
        ))
    }
}

fn stop_iteration(py: Python<'_>, value: Py<PyAny>) -> PyErr {
    // Built by hand: a tuple as the only argument would be taken for the argument list.
    match PyTuple::new(py, [value]) {
        Ok(args) => PyStopIteration::new_err(args.unbind()),
        Err(error) => error,
    }
}

/// The portal of a host's task, during a step of it.
fn portal_of(py: Python<'_>, task: &TaskRef) -> Option<Py<Portal>> {
    let portal = state(task).portal.as_ref()?;
    Some(portal.clone_ref(py))
}

/// The adapter of the host that runs the caller: `task`, if that is a host's task with a portal, or one
/// without.
pub fn running_host(py: Python<'_>, task: Option<&TaskRef>) -> Option<Py<PyAny>> {
    match task {
        Some(task) => host_of(py, task),
        None => run_loop::existing().and_then(|event_loop| event_loop.host(py)),
    }
}

/// The adapter of the host that runs `task`.
pub fn host_of(py: Python<'_>, task: &TaskRef) -> Option<Py<PyAny>> {
    let portal = portal_of(py, task)?;
    Some(portal.get().host.clone_ref(py))
}
