//! `Lock` and `RLock`: the standard library's locks, for tasks, OS threads and coroutines alike.
//!
//! First come, first served: a release hands the lock to whoever has waited longest, so nobody who
//! comes later overtakes a waiter. Semantics otherwise CPython's `_thread.lock` and `_thread.RLock`.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::{self, Acquire};
use pyo3::exceptions::{
    PyDeprecationWarning, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::awaitable;
use crate::errors::{self, Outcome, Raised};
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::semaphore::Truth;
use crate::stack::Object;
use crate::wait::{self, Pollable, Wait};

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

/// A lock that remembers on which thread's loop the task runs that took it, so that a wait that can
/// never end is refused.
struct Raw {
    lock: wait_queue::Lock,
    /// The address of the loop of the task that holds it; 0 for an OS thread.
    holder: AtomicUsize,
}

impl Raw {
    fn new() -> Self {
        Self {
            lock: wait_queue::Lock::new(),
            holder: AtomicUsize::new(0),
        }
    }

    #[inline(always)]
    fn try_acquire(&self) -> bool {
        if self.lock.try_lock() {
            self.note_holder();
            return true;
        }
        false
    }

    #[inline(always)]
    fn note_holder(&self) {
        self.holder
            .store(run_loop::cooperating_loop(), Ordering::Relaxed);
    }

    /// Waits for the lock. `deadline`: `None` does not wait.
    fn acquire(&self, deadline: Option<u64>, shielded: bool) -> Outcome<bool> {
        if self.try_acquire() {
            return Ok(true);
        }
        let Some(deadline) = deadline else {
            return Ok(false);
        };
        self.acquire_slow(deadline, shielded)
    }

    #[inline(never)]
    fn acquire_slow(&self, deadline: u64, shielded: bool) -> Outcome<bool> {
        // SAFETY: attached: Python has called us.
        let py = unsafe { Python::assume_attached() };
        let mut acquire = self.lock.lock_ref();
        let result = match run_loop::cooperating().cloned() {
            Some(task) => {
                let event_loop = run_loop::existing().expect("a task runs on a loop");
                wait::park_until(py, event_loop, &task, deadline, shielded, |cx| {
                    acquire.poll(cx)
                })
            }
            None => self.block(py, deadline, &mut acquire),
        };
        // Ours by hand-over, if it says so; dropping the `Acquire` would give it back.
        let handed_over = acquire.cancel();
        if result.is_ok() {
            if handed_over {
                self.note_holder();
            }
            return Ok(handed_over);
        }
        if handed_over {
            self.lock.unlock();
        }
        Err(Raised)
    }

    #[inline(never)]
    fn block(
        &self,
        py: Python<'_>,
        deadline: u64,
        acquire: &mut Acquire<&wait_queue::Core>,
    ) -> Outcome<bool> {
        if deadline == NEVER {
            let holder = self.holder.load(Ordering::Relaxed);
            if holder != 0 && holder == run_loop::driven_loop() {
                return Err(errors::deadlock().into());
            }
        }
        Ok(wait::block_until(py, deadline, |cx| acquire.poll(cx))?)
    }

    #[inline(always)]
    fn release(&self) -> bool {
        self.lock.unlock()
    }
}

/// A coroutine's wait for a lock.
struct AcquireWait {
    lock: wait_queue::Lock,
    acquire: Option<Acquire>,
}

impl Pollable for AcquireWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(acquire) = &mut self.acquire else {
            return Poll::Ready(());
        };
        let result = acquire.poll(cx);
        if result.is_ready()
            && let Some(acquire) = self.acquire.take()
        {
            acquire.cancel();
        }
        result
    }

    fn cancel(&mut self) {
        if let Some(acquire) = self.acquire.take()
            && acquire.cancel()
        {
            self.lock.unlock();
        }
    }
}

impl AcquireWait {
    fn new(lock: &wait_queue::Lock) -> Self {
        Self {
            lock: lock.clone(),
            acquire: Some(lock.lock()),
        }
    }
}

fn acquire_wait(lock: &wait_queue::Lock) -> Wait {
    Wait::new(Box::new(AcquireWait::new(lock)))
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
        self.raw.lock.is_locked()
    }
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Self {
        Self { raw: Raw::new() }
    }

    fn locked(&self) -> bool {
        self.raw.lock.is_locked()
    }

    fn locked_lock(&self) -> bool {
        self.locked()
    }

    fn _at_fork_reinit(&self) {
        self.raw.lock.reset();
        self.raw.holder.store(0, Ordering::Relaxed);
    }

    /// See `_core.pyi`.
    fn async_acquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(AcquireWait::new(&self.raw.lock)));
        awaitable::give(py, wait.giving(awaitable::truth(py)))
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let wait = Wait::checkpoint(Box::new(AcquireWait::new(&slf.get().raw.lock)));
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
        self.raw.lock.waiters()
    }

    /// A coroutine's wait for it. When it is over, the lock is the coroutine's.
    fn _acquire_wait(&self) -> Wait {
        acquire_wait(&self.raw.lock)
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

/// Who the caller is, as far as owning goes: its task, or else its OS thread.
#[inline(always)]
fn identity() -> usize {
    run_loop::current_address().unwrap_or_else(identity_without_task)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn owner_ident() -> usize {
    identity()
}

/// A host's task that has no portal is told from others by the host; what runs outside any task is
/// the OS thread.
#[cold]
fn identity_without_task() -> usize {
    if let Some(event_loop) = run_loop::existing()
        && event_loop.driver() == run_loop::Driver::Host
    {
        // SAFETY: attached, like every caller.
        let py = unsafe { Python::assume_attached() };
        if let Some(host) = event_loop.host(py)
            && let Ok(identity) = host.call_method0(py, "task_identity")
            && let Ok(identity) = identity.extract::<usize>(py)
            && identity != 0
        {
            return identity;
        }
    }
    run_loop::thread_identity()
}

/// See `_core.pyi`.
#[pyclass(module = "_thread", name = "RLock", frozen, subclass, weakref)]
pub struct RLock {
    raw: Raw,
    /// The identity of the owner, 0 for nobody. Written by the owner only.
    owner: AtomicUsize,
    count: AtomicU32,
}

impl RLock {
    #[inline(always)]
    fn take(&self, deadline: Option<u64>) -> PyResult<bool> {
        let me = identity();
        if self.owner.load(Ordering::Relaxed) == me {
            self.count.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        if deadline.is_some() {
            run_loop::breathe_now_and_then()?;
        }
        if !self.raw.acquire(deadline, false)? {
            return Ok(false);
        }
        self.owner.store(me, Ordering::Relaxed);
        self.count.store(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether the caller owns it.
    pub fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == identity()
    }

    /// Releases it wholly for a condition's wait, and returns how often it was held.
    pub fn release_for_wait(&self) -> u32 {
        let count = self.count.swap(0, Ordering::Relaxed);
        self.owner.store(0, Ordering::Relaxed);
        self.raw.release();
        count
    }

    /// Takes it again after a condition's wait, whatever happens.
    pub fn acquire_after_wait(&self, count: u32) -> PyResult<()> {
        self.raw.acquire(Some(NEVER), true)?;
        self.owner.store(identity(), Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
        Ok(())
    }
}

/// Warns as CPython does since 3.13.
#[cold]
fn refuse_arguments_some_day(py: Python<'_>) -> PyResult<()> {
    if py.version_info() < (3, 13) {
        return Ok(());
    }
    let message = c"Passing arguments to RLock is deprecated and will be removed in 3.15";
    PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), message, 1)
}

#[pymethods]
impl RLock {
    /// Takes anything, as CPython's does: a subclass's `__init__` may have arguments.
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        if !args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty()) {
            refuse_arguments_some_day(args.py())?;
        }
        Ok(Self {
            raw: Raw::new(),
            owner: AtomicUsize::new(0),
            count: AtomicU32::new(0),
        })
    }

    #[pyo3(signature = (blocking=Truth(true), timeout=-1.0))]
    fn acquire(&self, blocking: Truth, timeout: f64) -> PyResult<bool> {
        self.take(deadline(blocking.0, Some(timeout))?)
    }

    fn release(&self) -> PyResult<()> {
        if !self.is_mine() {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.owner.store(0, Ordering::Relaxed);
            self.raw.release();
        }
        Ok(())
    }

    fn locked(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    fn __enter__(&self) -> PyResult<bool> {
        self.take(Some(NEVER))
    }

    #[pyo3(signature = (_kind, _error, _traceback, /))]
    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release()
    }

    fn _is_owned(&self) -> bool {
        self.is_mine()
    }

    fn _recursion_count(&self) -> u32 {
        if self.is_mine() {
            self.count.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    fn _release_save(&self) -> PyResult<(u32, usize)> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        let owner = self.owner.load(Ordering::Relaxed);
        Ok((self.release_for_wait(), owner))
    }

    fn _acquire_restore(&self, state: (u32, usize)) -> PyResult<()> {
        self.raw.acquire(Some(NEVER), true)?;
        self.owner.store(state.1, Ordering::Relaxed);
        self.count.store(state.0, Ordering::Relaxed);
        Ok(())
    }

    fn _at_fork_reinit(&self) {
        self.raw.lock.reset();
        self.raw.holder.store(0, Ordering::Relaxed);
        self.owner.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
    }

    /// A coroutine's wait for it; `_acquired_by_wait` has to follow.
    fn _acquire_wait(&self) -> Option<Wait> {
        if self.is_mine() {
            self.count.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(acquire_wait(&self.raw.lock))
    }

    /// The wait is over: the lock is the caller's, as often as `saved` by `_release_save` says.
    #[pyo3(signature = (saved=None))]
    fn _acquired_by_wait(&self, saved: Option<(u32, usize)>) {
        self.owner.store(identity(), Ordering::Relaxed);
        self.count
            .store(saved.map_or(1, |(count, _)| count), Ordering::Relaxed);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        Ok(format!(
            "<{} {} object owner={} count={} at {:p}>",
            if this.locked() { "locked" } else { "unlocked" },
            slf.get_type().fully_qualified_name()?,
            this.owner.load(Ordering::Relaxed),
            this.count.load(Ordering::Relaxed),
            slf.as_ptr()
        ))
    }
}
