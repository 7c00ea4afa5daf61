//! Portals: a host's coroutine whose synchronous calls may park.
//!
//! The dance has three greenlets. The *host's greenlet* calls [`Portal::send`], as it would call a
//! coroutine's. The step itself runs on a *stack* from the pool. If the step ends without having
//! parked, the stack idles again and the host's greenlet returns what the coroutine yielded. If a
//! synchronous call in it parks, the stack stays frozen, and the host's greenlet yields to the host
//! whatever makes it wait (the *trap*: a coroutine of the adapter, `Backend.park`), until the task is
//! unparked and the host steps the portal again. If synchronous code calls `await_`, the awaitable's
//! yields take the same way.

use std::cell::UnsafeCell;
use std::ptr::null_mut;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyStopIteration, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::children::{self, ChildrenRef};
use crate::errors;
use crate::run_loop::{self, Loop};
use crate::running_loop;
use crate::stack::{self, Object};
use crate::task::{Entry, Kind, Payload, TaskRef, release, state};
use crate::waker::HostWaker;

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

/// Sends or throws `incoming` into `target`.
fn forward(py: Python<'_>, target: &Bound<'_, PyAny>, incoming: PyResult<Py<PyAny>>) -> Message {
    match incoming {
        Ok(value) => {
            let mut out: Object = null_mut();
            // SAFETY: both are valid objects; the result is a new reference or null.
            let outcome = unsafe { ffi::PyIter_Send(target.as_ptr(), value.as_ptr(), &mut out) };
            match outcome {
                ffi::PySendResult::PYGEN_NEXT => {
                    // SAFETY: a new reference.
                    Message::Yield(unsafe { Bound::from_owned_ptr(py, out) }.unbind())
                }
                ffi::PySendResult::PYGEN_RETURN => {
                    // SAFETY: a new reference.
                    Message::Return(unsafe { Bound::from_owned_ptr(py, out) }.unbind())
                }
                ffi::PySendResult::PYGEN_ERROR => Message::Raise(PyErr::fetch(py)),
            }
        }
        Err(error) => {
            let throw = match target.getattr_opt("throw") {
                Ok(Some(throw)) => throw,
                // A plain iterator has none: the error is raised where it is awaited.
                Ok(None) => return Message::Raise(error),
                Err(error) => return Message::Raise(error),
            };
            match throw.call1((error.into_value(py),)) {
                Ok(value) => Message::Yield(value.unbind()),
                Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                    match error.value(py).getattr("value") {
                        Ok(value) => Message::Return(value.unbind()),
                        Err(error) => Message::Raise(error),
                    }
                }
                Err(error) => Message::Raise(error),
            }
        }
    }
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
        let context = current_context(home);
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

/// The running context object itself, not a copy; null if there is none. Owned.
fn current_context(greenlet: Object) -> Object {
    // greenlet is the one that can tell: CPython has no call for it.
    // SAFETY: `greenlet` is the running greenlet; the result is a new reference.
    unsafe {
        let context = ffi::PyObject_GetAttrString(greenlet, c"gr_context".as_ptr());
        if context.is_null() {
            ffi::PyErr_Clear();
        }
        context
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn lend_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let me = stack::current();
    let context = current_context(me);
    release(me);
    // SAFETY: attached; `context` is null, `None`, or a context of which we have a reference.
    unsafe {
        if context.is_null() || context == ffi::Py_None() {
            release(context);
            return Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()).map(Bound::unbind);
        }
        let lent = Bound::from_owned_ptr(py, context).unbind();
        if ffi::PyContext_Exit(context) < 0 {
            // It was given to a greenlet without being entered: others may enter it as it is.
            ffi::PyErr_Clear();
            return Ok(lent);
        }
        let copy = ffi::PyContext_Copy(context);
        if copy.is_null() || ffi::PyContext_Enter(copy) < 0 {
            let error = PyErr::fetch(py);
            release(copy);
            ffi::PyContext_Enter(context);
            return Err(error);
        }
        // The interpreter keeps the one that is entered alive.
        release(copy);
        Ok(lent)
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn take_context_back(py: Python<'_>, context: &Bound<'_, PyAny>) -> PyResult<()> {
    let me = stack::current();
    let copy = current_context(me);
    release(me);
    // SAFETY: attached; `copy` is null, `None`, or a context of which we have a reference.
    let outcome = unsafe {
        if copy == context.as_ptr() || copy.is_null() || copy == ffi::Py_None() {
            0
        } else {
            ffi::PyContext_Exit(copy) | ffi::PyContext_Enter(context.as_ptr())
        }
    };
    release(copy);
    if outcome < 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(())
}

/// Makes `context` the running greenlet's.
fn set_context(context: Object) {
    if context.is_null() {
        return;
    }
    let me = stack::current();
    // SAFETY: both are valid objects.
    unsafe {
        if ffi::PyObject_SetAttrString(me, c"gr_context".as_ptr(), context) < 0 {
            ffi::PyErr_Clear();
        }
    }
    release(me);
}

/// Runs the step on the running stack, which was handed `task`. Returns the host's greenlet, and
/// whether the portal keeps the stack for its next step.
#[inline(never)]
pub fn step_on_stack(event_loop: &Loop, task: TaskRef) -> (Object, bool) {
    // SAFETY: attached: the host has called us.
    let py = unsafe { Python::assume_attached() };
    let portal = state(&task)
        .portal
        .as_ref()
        .expect("the hand-off of a portal's task comes from its step")
        .clone_ref(py);
    let this = portal.get();
    let incoming = this.inner().incoming.take().unwrap_or(Ok(py.None()));
    set_context(this.inner().context);
    event_loop.set_current(task);
    let message = forward(py, this.coroutine.bind(py), incoming);
    let task = event_loop.take_current();
    if let Some(task) = &task
        && state(task).kind != Kind::Host
    {
        end_of_forked_child(py, message);
    }
    drop(task);
    set_context(py.None().as_ptr());
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
    let incoming = {
        let portal = state(&task)
            .portal
            .as_ref()
            .map(|portal| portal.clone_ref(py));
        portal.and_then(|portal| portal.get().inner().incoming.take())
    };
    match incoming {
        Some(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

fn leave(py: Python<'_>, event_loop: &Loop, me: TaskRef, message: Message) -> PyResult<()> {
    let portal = state(&me)
        .portal
        .as_ref()
        .map(|portal| portal.clone_ref(py));
    let Some(portal) = portal else {
        event_loop.set_current(me);
        return Err(crate::errors::no_task("a blocking call"));
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

/// `await_` in a host's task: the awaitable's yields go to the host.
pub fn await_in_host(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let mut incoming = Ok(py.None());
    loop {
        match forward(py, iterator, incoming) {
            Message::Yield(value) => {
                let event_loop = run_loop::existing()
                    .ok_or_else(|| crate::errors::no_task("aevent.await_()"))?;
                let me = event_loop
                    .take_current()
                    .ok_or_else(|| crate::errors::no_task("aevent.await_()"))?;
                let task = me.clone();
                leave(py, event_loop, me, Message::Yield(value))?;
                let portal = state(&task)
                    .portal
                    .as_ref()
                    .map(|portal| portal.clone_ref(py));
                incoming = portal
                    .and_then(|portal| portal.get().inner().incoming.take())
                    .unwrap_or(Ok(py.None()));
            }
            Message::Return(value) => return Ok(value),
            Message::Raise(error) => return Err(error),
            Message::None | Message::Park | Message::Pause => {
                return Err(PyRuntimeError::new_err("an awaitable gave no answer"));
            }
        }
    }
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

/// A checkpoint of the host's, from synchronous code in its task.
#[inline(never)]
pub fn checkpoint(py: Python<'_>, task: &TaskRef) -> PyResult<()> {
    let Some(host) = host_of(py, task) else {
        return Err(crate::errors::no_task("a checkpoint"));
    };
    let coroutine = host.call_method1(py, "sleep", (0,))?;
    await_in_host(py, coroutine.bind(py)).map(|_| ())
}

/// The adapter of the host that runs `task`.
pub fn host_of(py: Python<'_>, task: &TaskRef) -> Option<Py<PyAny>> {
    let portal = state(task)
        .portal
        .as_ref()
        .map(|portal| portal.clone_ref(py))?;
    Some(portal.get().host.clone_ref(py))
}

/// `await_` in a task of ours: what the awaitable yields tells how long to park.
pub fn await_natively(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let event_loop =
        run_loop::existing().ok_or_else(|| crate::errors::no_task("aevent.await_()"))?;
    let mut incoming = Ok(py.None());
    loop {
        match forward(py, iterator, incoming) {
            Message::Yield(value) => {
                let value = value.bind(py);
                let result = if value.is_none() {
                    event_loop.park(py).map_err(PyErr::from)
                } else if value.is(pyo3::types::PyBool::new(py, true)) {
                    event_loop.yield_now(py).map_err(PyErr::from)
                } else {
                    Err(crate::coroutine::foreign_yield(value))
                };
                incoming = result.map(|()| py.None());
            }
            Message::Return(value) => return Ok(value),
            Message::Raise(error) => return Err(error),
            Message::None | Message::Park | Message::Pause => {
                return Err(PyRuntimeError::new_err("an awaitable gave no answer"));
            }
        }
    }
}

/// Has `task`, a host's task object that hides its coroutine, go on with `portal` instead of
/// `coroutine`.
///
/// `accessor` is the method that says which it has, of the task's type in C and not of a subclass.
///
/// The object is searched for the pointer to the coroutine. It is replaced only if
///
/// - the pointer stands there exactly once: the field that the accessor has read is one such place,
///   so there is no other;
/// - the object tells the collector of exactly one reference to the coroutine: so that field owns it.
///
/// Nothing is assumed of where the field is. The caller asks the accessor again afterwards.
#[pyfunction]
pub fn replace_coroutine(
    task: &Bound<'_, PyAny>,
    accessor: &Bound<'_, PyAny>,
    portal: Bound<'_, Portal>,
) -> PyResult<()> {
    let refuse = || {
        PyRuntimeError::new_err(
            "the coroutine of this task cannot be replaced while it runs. Start the task with \
             TaskGroup.spawn(), or the program with aevent.run().",
        )
    };
    let coroutine = accessor.call1((task,))?;
    if !portal.get().coroutine.is(&coroutine) || owned_references(task, &coroutine) != 1 {
        return Err(refuse());
    }
    let size: usize = task.get_type().getattr("__basicsize__")?.extract()?;
    let words = size / size_of::<Object>();
    let start = task.as_ptr().cast::<Object>();
    let mut found = None;
    // The first two words are the reference count and the type.
    for index in 2..words {
        // SAFETY: the object is at least as large as its type says; any word can be read.
        if unsafe { start.add(index).read() } == coroutine.as_ptr() {
            if found.is_some() {
                return Err(refuse());
            }
            found = Some(index);
        }
    }
    let index = found.ok_or_else(refuse)?;
    // SAFETY: the word is the field that the accessor has read, and owns a reference: see above. It
    // gets one to the portal instead, and the portal keeps the coroutine alive for the step that may
    // be running.
    unsafe {
        start.add(index).write(portal.into_any().into_ptr());
        ffi::Py_DECREF(coroutine.as_ptr());
    }
    Ok(())
}

/// How many references to `target` `object` tells the collector of.
fn owned_references(object: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> usize {
    struct Count {
        target: Object,
        found: usize,
    }
    unsafe extern "C" fn visit(object: Object, argument: *mut std::ffi::c_void) -> std::ffi::c_int {
        // SAFETY: what was passed to the traversal below.
        let count = unsafe { &mut *argument.cast::<Count>() };
        count.found += usize::from(object == count.target);
        0
    }
    let mut count = Count {
        target: target.as_ptr(),
        found: 0,
    };
    // SAFETY: a live object, visited by its own type's function, as the collector does, with the
    // interpreter attached; the visitor runs no Python code.
    unsafe {
        if let Some(traverse) = (*ffi::Py_TYPE(object.as_ptr())).tp_traverse {
            traverse(object.as_ptr(), visit, (&raw mut count).cast());
        }
    }
    count.found
}

/// Drives `awaitable` from synchronous code in a task whose coroutines we step or a host steps.
#[pyfunction]
pub fn await_here(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let Some(task) = run_loop::current() else {
        return Err(errors::no_task("aevent.await_()"));
    };
    if state(&task).kind == Kind::Host {
        return await_in_host(py, iterator);
    }
    await_natively(py, iterator)
}
