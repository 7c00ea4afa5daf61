//! `Lock`: the standard library's, for tasks, OS threads and coroutines alike.
//!
//! First come, first served: a release hands the lock to whoever has waited longest, so nobody who
//! comes later overtakes a waiter. Semantics otherwise CPython's `_thread.lock`.

mod raw_lock;

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::awaitable;
use crate::errors::Outcome;
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;
use crate::wait::{self, Wait};

pub use raw_lock::{AcquireWait, Raw};

/// `threading.TIMEOUT_MAX` in seconds.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

/// The deadline that `blocking` and `timeout` mean, or `None` for "do not wait".
pub fn deadline(blocking: bool, timeout: Option<f64>) -> PyResult<Option<u64>> {
    let timeout = timeout.unwrap_or(-1.0);
    if !blocking {
        if timeout != -1.0 {
            return Err(PyValueError::new_err(
                "can't specify a timeout for a non-blocking call",
            ));
        }
        return Ok(None);
    }
    if timeout == -1.0 {
        return Ok(Some(NEVER));
    }
    if timeout.is_nan() {
        return Err(PyValueError::new_err("Invalid value NaN (not a number)"));
    }
    if timeout < 0.0 {
        return Err(PyValueError::new_err(
            "timeout value must be a non-negative number",
        ));
    }
    if timeout > TIMEOUT_MAX {
        return Err(PyOverflowError::new_err("timeout value is too large"));
    }
    if timeout == 0.0 {
        return Ok(None);
    }
    Ok(Some(wait::deadline_after(timeout)))
}

/// See `_core.pyi`.
#[pyclass(module = "_thread", name = "lock", frozen, weakref)]
pub struct Lock {
    raw: Raw,
}

impl Lock {
    /// Takes it if it is free.
    #[inline(always)]
    pub fn try_acquire(&self) -> bool {
        self.raw.try_acquire()
    }

    /// Releases it for a condition's wait. False if it is not held.
    pub fn release_for_wait(&self) -> bool {
        self.raw.release()
    }

    /// Takes it again after a condition's wait, whatever happens.
    pub fn acquire_after_wait(&self) -> PyResult<()> {
        self.raw.acquire(Some(NEVER), true)?;
        Ok(())
    }

    /// Whether anybody holds it.
    #[inline(always)]
    pub fn is_held(&self) -> bool {
        self.raw.is_locked()
    }
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Self {
        Self { raw: Raw::new() }
    }

    fn locked(&self) -> bool {
        self.raw.is_locked()
    }

    fn locked_lock(&self) -> bool {
        self.locked()
    }

    fn _at_fork_reinit(&self) {
        self.raw.reset();
    }

    /// See `_core.pyi`.
    fn async_acquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(AcquireWait::new(&self.raw)));
        awaitable::give(py, wait.giving(awaitable::truth(py)))
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(AcquireWait::new(&slf.get().raw)));
        awaitable::give(slf.py(), wait.giving(slf.into_any().unbind()))
    }

    fn __aexit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Wait> {
        if !self.raw.release() {
            return Err(PyRuntimeError::new_err("release unlocked lock"));
        }
        Ok(Wait::over())
    }

    /// How many wait for it.
    fn _waiters(&self) -> u32 {
        self.raw.waiters()
    }

    /// A coroutine's wait for it. When it is over, the lock is the coroutine's.
    fn _acquire_wait(&self) -> Wait {
        Wait::new(Box::new(AcquireWait::new(&self.raw)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        format!(
            "<{} _thread.lock object at {:p}>",
            if slf.get().locked() {
                "locked"
            } else {
                "unlocked"
            },
            slf.as_ptr()
        )
    }
}

/// The methods that are called most, without parsing in between; see `raw`.
pub fn add_methods(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static METHODS: [Definition; 6] = [
        Definition::none(c"__enter__", enter),
        Definition::positional(c"__exit__", exit),
        Definition::keywords(c"acquire", acquire),
        Definition::keywords(c"acquire_lock", acquire),
        Definition::none(c"release", release),
        Definition::none(c"release_lock", release),
    ];
    let class = module.py().get_type::<Lock>();
    METHODS.iter().try_for_each(|method| method.add_to(&class))
}

/// The lock that a method was called on.
///
/// # Safety
/// `this` is what the interpreter passes to a method of `Lock`.
#[inline(always)]
unsafe fn lock_of<'a>(this: Object) -> &'a Raw {
    // SAFETY: the method's descriptor has checked the type; the caller of the method keeps the
    // object alive during the call, and the class is frozen.
    unsafe {
        let py = Python::assume_attached();
        let lock = Borrowed::from_ptr(py, this);
        let lock = std::ptr::from_ref(lock.cast_unchecked::<Lock>().get());
        &(*lock).raw
    }
}

fn truth(value: bool) -> Object {
    // SAFETY: both live for ever; attached, as every caller is.
    unsafe {
        let object = if value {
            ffi::Py_True()
        } else {
            ffi::Py_False()
        };
        ffi::Py_INCREF(object);
        object
    }
}

unsafe extern "C" fn enter(this: Object, _: Object) -> Object {
    // SAFETY: called by the interpreter on a lock.
    let raw = unsafe { lock_of(this) };
    if let Err(raised) = run_loop::breathe_now_and_then() {
        return raw::give(Err(raised));
    }
    if raw.try_acquire() {
        return truth(true);
    }
    raw::give(raw.acquire_slow(NEVER, false).map(truth))
}

unsafe extern "C" fn release(this: Object, _: Object) -> Object {
    // SAFETY: called by the interpreter on a lock.
    if unsafe { lock_of(this) }.release() {
        return raw::none();
    }
    raw::give(Err(PyRuntimeError::new_err("release unlocked lock").into()))
}

unsafe extern "C" fn exit(this: Object, _: *mut Object, _: isize) -> Object {
    // SAFETY: as above.
    unsafe { release(this, std::ptr::null_mut()) }
}

unsafe extern "C" fn acquire(
    this: Object,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: called by the interpreter on a lock.
    let raw = unsafe { lock_of(this) };
    let deadline = if nargs == 0 && names.is_null() {
        Some(NEVER)
    } else {
        // SAFETY: the arguments are as the interpreter gave them.
        match unsafe { parse_acquire(args, nargs as usize, names) } {
            Ok(deadline) => deadline,
            Err(raised) => return raw::give(Err(raised)),
        }
    };
    // A call that does not wait is nothing that others may run in between.
    if deadline.is_some()
        && let Err(raised) = run_loop::breathe_now_and_then()
    {
        return raw::give(Err(raised));
    }
    if raw.try_acquire() {
        return truth(true);
    }
    match deadline {
        None => raw::give(run_loop::breathe_after_refusal().map(|()| truth(false))),
        Some(deadline) => raw::give(raw.acquire_slow(deadline, false).map(truth)),
    }
}

/// The deadline that `blocking=True, timeout=-1` mean.
///
/// # Safety
/// The arguments are what the interpreter passes to a function.
#[inline(never)]
unsafe fn parse_acquire(args: *const Object, nargs: usize, names: Object) -> Outcome<Option<u64>> {
    // SAFETY: attached: the interpreter calls.
    let py = unsafe { Python::assume_attached() };
    let mut found: [Option<Borrowed<'_, '_, PyAny>>; 2] = [None, None];
    if nargs > found.len() {
        return Err(PyTypeError::new_err(format!(
            "acquire() takes at most 2 arguments ({nargs} given)"
        ))
        .into());
    }
    for (index, place) in found.iter_mut().enumerate().take(nargs) {
        // SAFETY: there are `nargs` arguments, alive during the call.
        *place = Some(unsafe { Borrowed::from_ptr(py, *args.add(index)) });
    }
    if !names.is_null() {
        // SAFETY: the names are a tuple of strings; their values follow the positional arguments.
        let names = unsafe { Borrowed::<PyAny>::from_ptr(py, names) };
        for (index, name) in names.try_iter()?.enumerate() {
            let name: String = name?.extract()?;
            let place = ["blocking", "timeout"]
                .iter()
                .position(|known| *known == name)
                .filter(|position| found[*position].is_none())
                .ok_or_else(|| {
                    PyTypeError::new_err(format!(
                        "acquire() got an unexpected or repeated keyword argument '{name}'"
                    ))
                })?;
            // SAFETY: as above.
            found[place] = Some(unsafe { Borrowed::from_ptr(py, *args.add(nargs + index)) });
        }
    }
    let blocking = match found[0] {
        Some(blocking) => blocking.is_truthy()?,
        None => true,
    };
    let timeout = match found[1] {
        Some(timeout) => timeout.extract::<f64>()?,
        None => -1.0,
    };
    Ok(deadline(blocking, Some(timeout))?)
}
