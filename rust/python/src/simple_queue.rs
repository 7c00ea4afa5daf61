//! `queue.SimpleQueue`, for tasks, OS threads and coroutines alike.
//!
//! Semantics CPython's `_queue.SimpleQueue`; those who wait are served in the order in which they
//! came. An item that is put while somebody waits is owed to him at once, so that neither `empty()`
//! nor `get_nowait()` sees it any more.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::awaitable;
use crate::errors::Raised;
use crate::lock;
use crate::raw::{self, Definition, Parsed};
use crate::run_loop;
use crate::semaphore::{self, PermitWait, Truth};
use crate::stack::Object;
use crate::wait::{Pollable, Wait};

/// `_queue.Empty`. Filled by the first queue.
static EMPTY: OnceLock<Py<PyType>> = OnceLock::new();

/// See `_core.pyi`.
#[pyclass(module = "_queue", name = "SimpleQueue", frozen, subclass, weakref)]
pub struct SimpleQueue {
    /// At least as many items as there are permits, plus those that are owed: a permit is the right
    /// to take the first.
    items: UnsafeCell<VecDeque<Py<PyAny>>>,
    /// Used with the interpreter attached only, so its lock makes up for atomic exchanges.
    permits: wait_queue::Semaphore,
}

// SAFETY: `items` is reached with the interpreter attached, whose lock serialises it, for single
// pushes, pops and replacements: no Python code runs while it is borrowed. That is also why `put`
// may be called from a finalizer that interrupts a `get`.
unsafe impl Sync for SimpleQueue {}

impl SimpleQueue {
    #[inline(always)]
    fn push(&self, item: Py<PyAny>) {
        // SAFETY: see the `Sync` implementation.
        unsafe { (*self.items.get()).push_back(item) };
        self.permits.release_alone();
    }

    /// The first item, for a caller who has a permit.
    #[inline(always)]
    fn pop(&self) -> PyResult<Py<PyAny>> {
        // SAFETY: see the `Sync` implementation.
        let item = unsafe { (*self.items.get()).pop_front() };
        // There is none only if the collector has taken the queue apart.
        item.ok_or_else(empty)
    }

    #[inline(never)]
    fn get_slow(
        &self,
        py: Python<'_>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let deadline = match timeout {
            _ if !block => None,
            None => Some(NEVER),
            Some(timeout) => {
                let seconds = timeout.extract::<f64>()?;
                if seconds < 0.0 {
                    return Err(PyValueError::new_err(
                        "'timeout' must be a non-negative number",
                    ));
                }
                lock::deadline(true, Some(seconds))?
            }
        };
        if self.permits.try_acquire_alone() {
            return self.pop();
        }
        if let Some(deadline) = deadline {
            if semaphore::wait_for_permit(py, &self.permits, deadline)? {
                return self.pop();
            }
        } else {
            run_loop::breathe_after_refusal()?;
        }
        Err(empty())
    }
}

/// A coroutine's wait for an item.
struct ItemWait {
    queue: Py<SimpleQueue>,
    permit: PermitWait,
}

impl ItemWait {
    fn new(queue: Bound<'_, SimpleQueue>) -> Self {
        Self {
            permit: PermitWait::new(&queue.get().permits),
            queue: queue.unbind(),
        }
    }
}

impl Pollable for ItemWait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.permit.poll(cx)
    }

    fn result(&mut self, _py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.queue.get().pop()
    }

    fn cancel(&mut self) {
        self.permit.cancel();
    }
}

static PUT: Parsed = Parsed::new();
static GET: Parsed = Parsed::new();

/// The methods that are called most, without parsing in between; see `raw`.
pub fn add_methods(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static METHODS: [Definition; 2] = [
        Definition::keywords(c"put", put),
        Definition::keywords(c"get", get),
    ];
    let class = module.py().get_type::<SimpleQueue>();
    PUT.remember(&class, "put")?;
    GET.remember(&class, "get")?;
    METHODS.iter().try_for_each(|method| method.add_to(&class))
}

/// The queue that a method was called on.
///
/// # Safety
/// `this` is what the interpreter passes to a method of `SimpleQueue`.
#[inline(always)]
unsafe fn queue_of<'a>(this: Object) -> &'a SimpleQueue {
    // SAFETY: the method's descriptor has checked the type; the caller of the method keeps the
    // object alive during the call, and the class is frozen.
    unsafe {
        let queue = Borrowed::from_ptr(Python::assume_attached(), this);
        &*std::ptr::from_ref(queue.cast_unchecked::<SimpleQueue>().get())
    }
}

unsafe extern "C" fn put(this: Object, args: *const Object, nargs: isize, names: Object) -> Object {
    if nargs != 1 || !names.is_null() {
        // SAFETY: passed on as they came.
        return unsafe { PUT.call(this, args, nargs, names) };
    }
    // Who only puts would fill the queue for a whole slice, with more than the takers' share of turns can
    // ever take out again.
    if let Err(raised) = run_loop::breathe_if_green() {
        return raw::give(Err(raised));
    }
    // SAFETY: called by the interpreter on a queue, with one argument.
    unsafe {
        let py = Python::assume_attached();
        queue_of(this).push(Borrowed::from_ptr(py, *args).to_owned().unbind());
    }
    raw::none()
}

unsafe extern "C" fn get(this: Object, args: *const Object, nargs: isize, names: Object) -> Object {
    if nargs != 0 || !names.is_null() {
        // SAFETY: passed on as they came.
        return unsafe { GET.call(this, args, nargs, names) };
    }
    // SAFETY: called by the interpreter on a queue.
    let (py, queue) = unsafe { (Python::assume_attached(), queue_of(this)) };
    if let Err(raised) = run_loop::breathe_now_and_then() {
        return raw::give(Err(raised));
    }
    if !queue.permits.try_acquire_alone() {
        match semaphore::wait_for_permit(py, &queue.permits, NEVER) {
            Ok(_) => {}
            Err(error) => return raw::give(Err(error.into())),
        }
    }
    raw::give(queue.pop().map(Py::into_ptr).map_err(Raised::from))
}

#[cold]
fn empty() -> PyErr {
    Python::attach(|py| match EMPTY.get() {
        Some(kind) => PyErr::from_type(kind.bind(py).clone(), ()),
        None => PyValueError::new_err("a queue exists, so its exception was imported"),
    })
}

#[pymethods]
impl SimpleQueue {
    /// Takes anything, since a subclass's `__init__` may; it is `__init__` that checks.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        if EMPTY.get().is_none() {
            let kind = py.import("_queue")?.getattr("Empty")?.cast_into()?;
            let _ = EMPTY.set(kind.unbind());
        }
        Ok(Self {
            items: UnsafeCell::new(VecDeque::new()),
            permits: wait_queue::Semaphore::new(0),
        })
    }

    fn __init__(&self) {}

    /// Never waits; `block` and `timeout` are there for the sake of `Queue.put`'s signature.
    #[pyo3(signature = (item, block=None, timeout=None), text_signature = "($self, item, block=True, timeout=None)")]
    fn put(
        &self,
        item: Py<PyAny>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) {
        let _ = (block, timeout);
        self.push(item);
    }

    fn put_nowait(&self, item: Py<PyAny>) {
        self.push(item);
    }

    #[pyo3(signature = (block=Truth(true), timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn get(
        &self,
        py: Python<'_>,
        block: Truth,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if timeout.is_none() && self.permits.try_acquire_alone() {
            return self.pop();
        }
        self.get_slow(py, block.0, timeout)
    }

    fn get_nowait(&self) -> PyResult<Py<PyAny>> {
        if self.permits.try_acquire_alone() {
            return self.pop();
        }
        run_loop::breathe_after_refusal()?;
        Err(empty())
    }

    fn empty(&self) -> bool {
        self.permits.permits() == 0
    }

    fn qsize(&self) -> u32 {
        self.permits.permits()
    }

    /// A coroutine's wait for an item, which is its result.
    fn _get_wait(slf: Bound<'_, Self>) -> Wait {
        Wait::new(Box::new(ItemWait::new(slf)))
    }

    /// See `_core.pyi`.
    fn async_get(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        awaitable::give(py, Wait::checkpoint(Box::new(ItemWait::new(slf))))
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: both are valid objects; the result is a new reference or null.
        unsafe {
            Bound::from_owned_ptr_or_err(
                cls.py(),
                ffi::Py_GenericAlias(cls.as_ptr(), item.as_ptr()),
            )
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: see the `Sync` implementation; the collector's visitors change nothing.
        for item in unsafe { &*self.items.get() } {
            visit.call(item)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // SAFETY: see the `Sync` implementation; the items are dropped after they were taken out.
        drop(unsafe { std::mem::take(&mut *self.items.get()) });
    }
}
