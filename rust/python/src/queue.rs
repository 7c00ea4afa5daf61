//! `put` and `get` of `queue.Queue`, `LifoQueue` and `PriorityQueue`.
//!
//! The classes stay the standard library's, with everything that programs reach into: `mutex`, the
//! conditions, `queue`, `unfinished_tasks`, `maxsize`, and the hooks `_put`, `_get` and `_qsize`.
//! Only the two methods are exchanged, for ones that carry the same algorithm out on the same
//! attributes without interpreting it. They do so if nobody could tell the difference: the hooks are
//! those of the standard library, the mutex is a free lock of ours and the conditions belong to it.
//! In any other case (a subclass with hooks of its own, a queue that was made before the
//! patching, a mutex that somebody holds) they call the method that was there before.
//!
//! Why not a class of our own, as gevent has? It would be faster still (an item in and out takes
//! `SimpleQueue` 72 ns, this 96, gevent 152, the standard library's methods on our locks 700), but
//! `queue.Queue` would no longer be the class that earlier imports, instances and subclasses know,
//! and each attribute would have to be imitated.
//!
//! The methods are builtin ones of `Queue`, the only kind of callable that the interpreter calls
//! without detour. The price: they have no attributes, so `_aevent_orig` is with the classes, and
//! `Queue.put(x, item)` is a TypeError if `x` is no `Queue`.
//!
//! **Atomicity.** The interpreter's lock is held throughout, and for a deque and a list nothing in
//! between runs Python code. So if the mutex is free when such an operation begins, it is as
//! if it had been held: taking and releasing it would be seen by nobody, and is left out. A heap
//! compares items, which may run anything; there the mutex is really taken.
//!
//! **Waiting** is the condition's, without the mutex: from the look at the queue to the place among
//! those who wait nothing runs. Who is woken looks again; only if somebody has taken the mutex
//! meanwhile is it waited for, as `Condition.wait` does.
//!
//! **Reading the attributes** (see `attributes`) was most of what remained, so they are remembered
//! (see `remembered`). Storing and freeing the numbers of `unfinished_tasks` is the next.

mod action;
mod arguments;
mod attributes;
mod library;
mod remembered;

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ptr::null_mut;

use aevent_runtime::clock::{self, NEVER};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::event;
use crate::lock::Lock;
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, state};
use crate::wait;

use action::{Action, Get, Put};
use arguments::{call_original, deadline, sort_arguments};
use attributes::{Attributes, QUEUE};
use library::{LIBRARY, Library, Order, build};
use remembered::Remembered;

/// How an attempt to put or get ended.
enum Attempt {
    /// The call's result; null with an exception set.
    Over(Object),
    /// It must wait.
    MustWait,
    /// The mutex is held by somebody.
    Contended,
    /// This is for the original to do.
    Original,
}

/// Acts if it is possible now. `held`: the caller has the mutex, and keeps it.
#[inline(always)]
unsafe fn attempt<A: Action>(
    library: &Library,
    action: A,
    this: Object,
    held: bool,
    first: bool,
) -> Attempt {
    // SAFETY: `this` is a `Queue`, which the method's descriptor has checked. The attributes are used
    // before any Python code can run, except in `attempt_with_heap`.
    unsafe {
        let order = library.order_of(ffi::Py_TYPE(this));
        if order == Order::Custom {
            return Attempt::Original;
        }
        if let Some((known, dict)) = library.memory.of(this, order)
            && let Some(mutex) = known.mutex(library)
        {
            if !held && mutex.is_held() {
                return Attempt::Contended;
            }
            if !action.is_possible_with(known.maxsize(), ffi::Py_SIZE(known.queue()), first) {
                return Attempt::MustWait;
            }
            return attempt_with_known(library, action, this, order, known, dict);
        }
        let mut attributes = Attributes::new();
        if !attributes.read(library, this, A::NEEDED) {
            return Attempt::Original;
        }
        let (Some((_, mutex)), Some((_, other_mutex))) = (
            attributes.condition(library, A::AWAITED),
            attributes.condition(library, A::NOTIFIED),
        ) else {
            return Attempt::Original;
        };
        if !std::ptr::eq(mutex, other_mutex) {
            return Attempt::Original;
        }
        if !held && mutex.is_held() {
            return Attempt::Contended;
        }
        let (Some(possible), Some(shut_down)) = (
            action.is_possible(library, &attributes, order, first),
            attributes.is_shut_down(library),
        ) else {
            return Attempt::Original;
        };
        if action.is_refused(possible, shut_down) {
            ffi::PyErr_SetNone(library.shut_down);
            return Attempt::Over(null_mut());
        }
        if !possible {
            return Attempt::MustWait;
        }
        if order == Order::Priority {
            return attempt_with_heap(library, action, this, &attributes, held);
        }
        let queue = attributes.values[QUEUE];
        let expected = ffi::Py_SIZE(queue) + A::GROWTH;
        ffi::Py_INCREF(queue);
        let mut result = action.act(library, queue, order);
        // A deque with a `maxlen` has dropped another item, whose end may have run anything.
        let undisturbed = ffi::Py_SIZE(queue) == expected;
        ffi::Py_DECREF(queue);
        let intact =
            undisturbed || result.is_null() || attributes.read_again(library, this, A::NEEDED);
        if !intact {
            ffi::Py_DECREF(result);
            result = null_mut();
        }
        let result = conclude::<A>(library, &attributes, result);
        if A::COUNTS && !result.is_null() && attributes.read(library, this, A::NEEDED) {
            library.memory.remember(library, this, &attributes, order);
        }
        Attempt::Over(result)
    }
}

/// The rest of an attempt at a queue whose attributes are known.
#[inline(always)]
unsafe fn attempt_with_known<A: Action>(
    library: &Library,
    action: A,
    this: Object,
    order: Order,
    known: &Remembered,
    dict: Object,
) -> Attempt {
    // SAFETY: as in `attempt`.
    unsafe {
        let queue = known.queue();
        let expected = ffi::Py_SIZE(queue) + A::GROWTH;
        ffi::Py_INCREF(queue);
        let result = action.act(library, queue, order);
        let undisturbed = ffi::Py_SIZE(queue) == expected;
        ffi::Py_DECREF(queue);
        if result.is_null() {
            return Attempt::Over(result);
        }
        if !undisturbed {
            // As above.
            let mut attributes = Attributes::new();
            if !attributes.read_again(library, this, A::NEEDED) {
                ffi::Py_DECREF(result);
                return Attempt::Over(null_mut());
            }
            return Attempt::Over(conclude::<A>(library, &attributes, result));
        }
        if A::COUNTS && !known.count(library, dict) {
            ffi::Py_DECREF(result);
            return Attempt::Over(null_mut());
        }
        let notified = known.condition(A::NOTIFIED);
        if !notified.queue().is_empty() {
            notified.queue().notify(1);
        }
        Attempt::Over(result)
    }
}

/// What follows when something was put or taken: counting and notifying.
#[inline(always)]
unsafe fn conclude<A: Action>(
    library: &Library,
    attributes: &Attributes,
    result: Object,
) -> Object {
    // SAFETY: the attributes are valid; the result is ours.
    unsafe {
        if result.is_null() {
            return result;
        }
        if !A::count(library, attributes) {
            ffi::Py_DECREF(result);
            return null_mut();
        }
        if let Some((notified, _)) = attributes.condition(library, A::NOTIFIED)
            && !notified.queue().is_empty()
        {
            notified.queue().notify(1);
        }
        result
    }
}

/// The rest of an attempt if items are compared, which may run anything: with the mutex held, and
/// with references of our own.
#[inline(never)]
unsafe fn attempt_with_heap<A: Action>(
    library: &Library,
    action: A,
    this: Object,
    attributes: &Attributes,
    held: bool,
) -> Attempt {
    // SAFETY: as in `attempt`.
    unsafe {
        let py = Python::assume_attached();
        let Some((condition, _)) = attributes.condition(library, A::AWAITED) else {
            return Attempt::Original;
        };
        let lock: Bound<'_, Lock> =
            Bound::from_borrowed_ptr(py, condition.lock_object()).cast_into_unchecked();
        let queue = Bound::from_borrowed_ptr(py, attributes.values[QUEUE]);
        if !held && !lock.get().try_acquire() {
            return Attempt::Contended;
        }
        let mut result = action.act(library, queue.as_ptr(), Order::Priority);
        drop(queue);
        if !result.is_null() {
            let mut attributes = Attributes::new();
            if attributes.read_again(library, this, A::NEEDED) {
                result = conclude::<A>(library, &attributes, result);
            } else {
                ffi::Py_DECREF(result);
                result = null_mut();
            }
        }
        if !held {
            lock.get().release_for_wait();
        }
        Attempt::Over(result)
    }
}

/// The rest of a call that must wait, or may not. `deadline`: `None` for "do not wait".
#[inline(never)]
unsafe fn wait_and_act<A: Action>(
    py: Python<'_>,
    library: &Library,
    action: A,
    this: Object,
    deadline: Option<u64>,
) -> PyResult<Attempt> {
    // SAFETY: our caller's caller owns a reference to `this` until we return.
    unsafe {
        let Some(deadline) = deadline else {
            // A thread that asks again and again must let the others run, as if it were preempted.
            // A coroutine must not: it counts on running until it awaits.
            if run_loop::cooperating().is_some_and(|task| state(task).kind == Kind::Green) {
                event::breathe(py)?;
            }
            ffi::PyErr_SetNone(A::complaint(library));
            return Ok(Attempt::Over(null_mut()));
        };
        // The mutex, while we have it: only if somebody else had it when we were woken.
        let mut held: Option<Bound<'_, Lock>> = None;
        loop {
            if deadline != NEVER && clock::now() >= deadline {
                if let Some(mutex) = held.take() {
                    mutex.get().release_for_wait();
                }
                event::breathe(py)?;
                ffi::PyErr_SetNone(A::complaint(library));
                return Ok(Attempt::Over(null_mut()));
            }
            let mut attributes = Attributes::new();
            if !attributes.read(library, this, A::NEEDED) {
                break;
            }
            let Some((condition, _)) = attributes.condition(library, A::AWAITED) else {
                break;
            };
            let mutex: Bound<'_, Lock> =
                Bound::from_borrowed_ptr(py, condition.lock_object()).cast_into_unchecked();
            let mut waiter = condition.queue().listen();
            if let Some(mutex) = held.take() {
                mutex.get().release_for_wait();
            }
            match wait::wait_until(py, deadline, false, |cx| waiter.poll(cx)) {
                Ok(_) => {
                    waiter.cancel();
                }
                // Dropping the waiter passes a notification on.
                Err(error) => return Err(error),
            }
            match attempt(library, action, this, false, false) {
                Attempt::MustWait => {}
                Attempt::Contended => {
                    mutex.get().acquire_after_wait()?;
                    match attempt(library, action, this, true, false) {
                        Attempt::MustWait => held = Some(mutex),
                        over => {
                            mutex.get().release_for_wait();
                            return Ok(over);
                        }
                    }
                }
                over => return Ok(over),
            }
        }
        if let Some(mutex) = held.take() {
            mutex.get().release_for_wait();
        }
        Ok(Attempt::Original)
    }
}

/// A call that has found out that it is not the simplest.
#[inline(never)]
unsafe fn call_slowly<A: Action>(
    library: &Library,
    action: A,
    this: Object,
    deadline: Option<u64>,
    original: impl FnOnce() -> Object,
) -> Object {
    // SAFETY: attached: the interpreter calls us.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: as for the callers.
    match unsafe { wait_and_act(py, library, action, this, deadline) } {
        Ok(Attempt::Over(result)) => result,
        Ok(_) => original(),
        Err(error) => {
            error.restore(py);
            null_mut()
        }
    }
}

unsafe extern "C" fn put(
    this: Object,
    args: *const Object,
    nargs: ffi::Py_ssize_t,
    kwnames: Object,
) -> Object {
    let library = LIBRARY.get().expect("it was filled before this was made");
    let nargs = nargs as usize;
    // SAFETY: as the interpreter calls it.
    unsafe {
        let original = || call_original(library.original_put, this, args, nargs, kwnames);
        let (item, deadline) = if nargs == 1 && kwnames.is_null() {
            (*args, Some(NEVER))
        } else {
            let names = [library.item, library.block, library.timeout];
            match sort_arguments(names, args, nargs, kwnames) {
                Some([item, block, timeout]) if !item.is_null() => match deadline(block, timeout) {
                    Ok(deadline) => (item, deadline),
                    Err(()) => return original(),
                },
                _ => return original(),
            }
        };
        if deadline.is_some() && run_loop::breathe_now_and_then().is_err() {
            return null_mut();
        }
        match attempt(library, Put(item), this, false, true) {
            Attempt::Over(result) => result,
            Attempt::MustWait => call_slowly(library, Put(item), this, deadline, original),
            Attempt::Contended | Attempt::Original => original(),
        }
    }
}

unsafe extern "C" fn get(
    this: Object,
    args: *const Object,
    nargs: ffi::Py_ssize_t,
    kwnames: Object,
) -> Object {
    let library = LIBRARY.get().expect("it was filled before this was made");
    let nargs = nargs as usize;
    // SAFETY: as the interpreter calls it.
    unsafe {
        let original = || call_original(library.original_get, this, args, nargs, kwnames);
        let deadline = if nargs == 0 && kwnames.is_null() {
            Some(NEVER)
        } else {
            match sort_arguments([library.block, library.timeout], args, nargs, kwnames) {
                Some([block, timeout]) => match deadline(block, timeout) {
                    Ok(deadline) => deadline,
                    Err(()) => return original(),
                },
                None => return original(),
            }
        };
        if deadline.is_some() && run_loop::breathe_now_and_then().is_err() {
            return null_mut();
        }
        match attempt(library, Get, this, false, true) {
            Attempt::Over(result) => result,
            Attempt::MustWait => call_slowly(library, Get, this, deadline, original),
            Attempt::Contended | Attempt::Original => original(),
        }
    }
}

struct Definitions(UnsafeCell<[ffi::PyMethodDef; 2]>);

// SAFETY: written never; the interpreter only reads them.
unsafe impl Sync for Definitions {}

static DEFINITIONS: Definitions = Definitions(UnsafeCell::new([
    definition(
        c"put",
        put,
        c"put($self, item, block=True, timeout=None)\n--\n\n\
        Put an item into the queue.\n\n\
        With 'block', waits for a free slot, for at most 'timeout' seconds; raises Full if there is\n\
        none in that time, or, without 'block', none now.",
    ),
    definition(
        c"get",
        get,
        c"get($self, block=True, timeout=None)\n--\n\n\
        Remove and return an item from the queue.\n\n\
        With 'block', waits for an item, for at most 'timeout' seconds; raises Empty if there is none\n\
        in that time, or, without 'block', none now.",
    ),
]));

const fn definition(
    name: &'static CStr,
    function: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: function,
        },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn queue_methods<'py>(module: &Bound<'py, PyModule>) -> PyResult<Bound<'py, PyDict>> {
    let py = module.py();
    let methods = PyDict::new(py);
    if LIBRARY.get().is_none() {
        let Some(library) = build(module)? else {
            return Ok(methods);
        };
        let _ = LIBRARY.set(library);
    }
    let class = module.getattr("Queue")?;
    // SAFETY: the definitions are static, as the descriptors need them to be; each makes sure that
    // its first argument is a `Queue`.
    unsafe {
        let definitions: *mut ffi::PyMethodDef = DEFINITIONS.0.get().cast();
        for (index, name) in ["put", "get"].into_iter().enumerate() {
            let method = ffi::PyDescr_NewMethod(class.as_ptr().cast(), definitions.add(index));
            methods.set_item(name, Bound::from_owned_ptr_or_err(py, method)?)?;
        }
    }
    Ok(methods)
}
