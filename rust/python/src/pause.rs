//! `Checkpoint` and `Sleep`: what a native coroutine awaits to let others run, or to sleep.
//!
//! They are what tasks await most, so they are types made by hand, not by pyo3: a step calls
//! [`send`] with nothing in between, and the end of a wait is a return value, not a StopIteration.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::timers::TimerKey;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors;
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Payload, release};
use crate::wait;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Not awaited yet.
    New,
    /// The task waits in it.
    Waiting,
    /// Awaited to its end, or given up.
    Over,
}

/// One wait of a task. Holds no Python objects, so the collector need not know it.
#[repr(C)]
struct Pause {
    base: ffi::PyObject,
    /// When it ends: 0 if with the task's next turn, `NEVER` if not by itself.
    deadline: u64,
    timer: Option<TimerKey>,
    /// Whose timer that is: compared only.
    scheduler: *const Scheduler<Payload>,
    stage: Stage,
}

static CHECKPOINT: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(null_mut());
static SLEEP: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(null_mut());

fn new(kind: &AtomicPtr<ffi::PyTypeObject>, deadline: u64) -> Object {
    let kind = kind.load(Ordering::Relaxed);
    // SAFETY: attached, as every caller is; the memory is that of a `Pause`, for which the type was
    // made, and all of it is written before anybody sees it.
    unsafe {
        let memory = ffi::PyObject_Malloc(size_of::<Pause>()).cast::<Pause>();
        if memory.is_null() {
            return ffi::PyErr_NoMemory();
        }
        (&raw mut (*memory).deadline).write(deadline);
        (&raw mut (*memory).timer).write(None);
        (&raw mut (*memory).scheduler).write(null());
        (&raw mut (*memory).stage).write(Stage::New);
        ffi::PyObject_Init(memory.cast(), kind)
    }
}

/// A new `Checkpoint()`, or null with an exception set.
#[inline]
pub fn checkpoint() -> Object {
    new(&CHECKPOINT, 0)
}

/// A new `Sleep` until `deadline`, or null with an exception set.
#[inline]
pub fn sleep_until(deadline: u64) -> Object {
    new(&SLEEP, deadline)
}

/// # Safety
/// The object is a `Pause`. The reference is not kept across anything that runs Python code.
#[inline(always)]
unsafe fn pause<'a>(object: Object) -> &'a mut Pause {
    // SAFETY: the caller's promise; the interpreter's lock keeps others away.
    unsafe { &mut *object.cast() }
}

/// Takes its timer back.
fn forget_timer(this: &mut Pause) {
    let Some(timer) = this.timer.take() else {
        return;
    };
    // Dropped by another OS thread: the timer will unpark a task that has gone on, which is harmless.
    if let Some(event_loop) = run_loop::existing()
        && std::ptr::eq(&raw const *event_loop.scheduler, this.scheduler)
    {
        event_loop.scheduler.forget_deadline(timer);
    }
}

/// One step: `am_send`, which every coroutine that awaits it calls.
unsafe extern "C" fn send(this: Object, _value: Object, result: *mut Object) -> ffi::PySendResult {
    // SAFETY: the slot of our type.
    let this = unsafe { pause(this) };
    let Some(task) = run_loop::running() else {
        raw::give(Err(errors::no_task("awaiting this").into()));
        return ffi::PySendResult::PYGEN_ERROR;
    };
    if this.stage == Stage::Over {
        raw::give(Err(PyRuntimeError::new_err(
            "cannot reuse an awaited pause",
        )
        .into()));
        return ffi::PySendResult::PYGEN_ERROR;
    }
    // A checkpoint lets the others run first, so that what they do about a cancellation counts, and
    // that a cancelled task which goes on regardless does not keep them from running.
    let is_to_yield = this.deadline == 0 && this.stage == Stage::New;
    if !is_to_yield && wait::is_to_raise(task) {
        this.stage = Stage::Over;
        forget_timer(this);
        wait::raise_in(task);
        return ffi::PySendResult::PYGEN_ERROR;
    }
    let is_over = match this.deadline {
        0 => this.stage == Stage::Waiting,
        NEVER => false,
        deadline => clock::now() >= deadline,
    };
    if is_over {
        this.stage = Stage::Over;
        forget_timer(this);
        // SAFETY: where the result belongs.
        unsafe { *result = raw::none() };
        return ffi::PySendResult::PYGEN_RETURN;
    }
    this.stage = Stage::Waiting;
    if this.deadline == 0 {
        // SAFETY: as above; `True` lives for ever.
        unsafe {
            ffi::Py_INCREF(ffi::Py_True());
            *result = ffi::Py_True();
        }
        return ffi::PySendResult::PYGEN_NEXT;
    }
    if this.timer.is_none() && this.deadline != NEVER {
        let scheduler = task.scheduler();
        this.scheduler = &raw const **scheduler;
        this.timer = Some(scheduler.unpark_at(this.deadline, task.clone()));
    }
    // SAFETY: as above.
    unsafe { *result = raw::none() };
    ffi::PySendResult::PYGEN_NEXT
}

unsafe extern "C" fn next(this: Object) -> Object {
    let mut result = null_mut();
    // SAFETY: our own object and a place for the result.
    match unsafe { send(this, ffi::Py_None(), &mut result) } {
        ffi::PySendResult::PYGEN_NEXT => result,
        ffi::PySendResult::PYGEN_RETURN => {
            // Null without an exception is the end, with `None` for its value.
            release(result);
            null_mut()
        }
        ffi::PySendResult::PYGEN_ERROR => null_mut(),
    }
}

unsafe extern "C" fn itself(this: Object) -> Object {
    // SAFETY: a valid object; attached.
    unsafe { ffi::Py_INCREF(this) };
    this
}

unsafe extern "C" fn send_method(this: Object, value: Object) -> Object {
    let mut result = null_mut();
    // SAFETY: our own object and a place for the result.
    match unsafe { send(this, value, &mut result) } {
        ffi::PySendResult::PYGEN_NEXT => result,
        ffi::PySendResult::PYGEN_RETURN => {
            release(result);
            // SAFETY: attached.
            unsafe { ffi::PyErr_SetNone(ffi::PyExc_StopIteration) };
            null_mut()
        }
        ffi::PySendResult::PYGEN_ERROR => null_mut(),
    }
}

unsafe extern "C" fn close(this: Object, _: Object) -> Object {
    // SAFETY: a method of our type.
    let this = unsafe { pause(this) };
    this.stage = Stage::Over;
    forget_timer(this);
    raw::none()
}

unsafe extern "C" fn throw(this: Object, args: *mut Object, nargs: ffi::Py_ssize_t) -> Object {
    // SAFETY: a method of our type.
    let this = unsafe { pause(this) };
    this.stage = Stage::Over;
    forget_timer(this);
    // The old form is a class, perhaps a value, and perhaps a traceback.
    // SAFETY: attached: Python calls us. There are so many arguments, borrowed from the caller.
    let error = unsafe {
        let py = Python::assume_attached();
        let value = (nargs > 1 && *args.offset(1) != ffi::Py_None()).then_some(1);
        (nargs > 0).then(|| Bound::from_borrowed_ptr(py, *args.offset(value.unwrap_or(0))))
    };
    let error = error.map_or_else(
        || PyTypeError::new_err("throw() expects an exception"),
        PyErr::from_value,
    );
    raw::give(Err(error.into()))
}

unsafe extern "C" fn dealloc(this: Object) {
    // SAFETY: the slot of our type; nobody else has a reference.
    unsafe {
        let kind = ffi::Py_TYPE(this);
        let pause = pause(this);
        forget_timer(pause);
        if pause.stage == Stage::New {
            warn(kind);
        }
        ffi::PyObject_Free(this.cast());
        // An object holds its type if that is no static one.
        ffi::Py_DECREF(kind.cast());
    }
}

/// Nobody has awaited it: `aevent.sleep(1)` without `await` sleeps not at all.
#[cold]
fn warn(kind: *mut ffi::PyTypeObject) {
    let name = if kind == SLEEP.load(Ordering::Relaxed) {
        c"coroutine 'sleep' was never awaited"
    } else {
        c"coroutine 'checkpoint' was never awaited"
    };
    // SAFETY: attached, as whoever drops an object is.
    let py = unsafe { Python::assume_attached() };
    // What was raised before is put back.
    let raised = PyErr::take(py);
    // SAFETY: attached; static strings.
    unsafe {
        if ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, name.as_ptr(), 1) < 0 {
            ffi::PyErr_WriteUnraisable(null_mut());
        }
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

unsafe extern "C" fn new_checkpoint(
    _kind: *mut ffi::PyTypeObject,
    args: Object,
    _kwargs: Object,
) -> Object {
    // SAFETY: the arguments are a tuple.
    if unsafe { ffi::PyTuple_Size(args) } != 0 {
        return raw::give(Err(
            PyTypeError::new_err("Checkpoint() takes no arguments").into()
        ));
    }
    checkpoint()
}

unsafe extern "C" fn new_sleep(
    _kind: *mut ffi::PyTypeObject,
    args: Object,
    _kwargs: Object,
) -> Object {
    // SAFETY: the arguments are a tuple; the item is borrowed from it.
    let seconds = unsafe {
        if ffi::PyTuple_Size(args) != 1 {
            let error = PyTypeError::new_err("Sleep() takes one argument, a deadline");
            return raw::give(Err(error.into()));
        }
        ffi::PyFloat_AsDouble(ffi::PyTuple_GetItem(args, 0))
    };
    // SAFETY: attached.
    if seconds == -1.0 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        return null_mut();
    }
    sleep_until(deadline(seconds))
}

/// Seconds of `time.monotonic()` as a deadline. The clock has started, so it is never 0.
fn deadline(seconds: f64) -> u64 {
    if seconds >= 9e9 {
        NEVER
    } else {
        ((seconds.max(0.0) * 1e9).ceil() as u64).max(1)
    }
}

static METHODS: [Definition; 3] = [
    Definition::one(c"send", send_method),
    Definition::positional(c"throw", throw),
    Definition::none(c"close", close),
];

/// A type for [`Pause`].
fn make_type<'py>(
    py: Python<'py>,
    name: &'static CStr,
    new: ffi::newfunc,
) -> PyResult<Bound<'py, PyType>> {
    /// `Py_am_send` of CPython's headers, which pyo3 does not declare.
    const AM_SEND: c_int = 81;
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    // The interpreter keeps no pointer to the list itself, but to the name, which is static.
    let mut slots = [
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_iter, itself as *mut c_void),
        slot(ffi::Py_tp_iternext, next as *mut c_void),
        slot(ffi::Py_am_await, itself as *mut c_void),
        slot(AM_SEND, send as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size_of::<Pause>() as c_int,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; the functions are those that the slots are for.
    let kind = unsafe {
        let kind = ffi::PyType_FromSpec(&mut spec);
        Bound::from_owned_ptr_or_err(py, kind)?.cast_into::<PyType>()?
    };
    for method in &METHODS {
        method.add_to(&kind)?;
    }
    Ok(kind)
}

/// Adds the types to the module. They live as long as the process.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let checkpoint = make_type(py, c"aevent._core.Checkpoint", new_checkpoint)?;
    let sleep = make_type(py, c"aevent._core.Sleep", new_sleep)?;
    module.add("Checkpoint", &checkpoint)?;
    module.add("Sleep", &sleep)?;
    CHECKPOINT.store(checkpoint.into_ptr().cast(), Ordering::Relaxed);
    SLEEP.store(sleep.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
