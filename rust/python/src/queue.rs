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
//! **Reading the attributes** is most of what remains. They are taken from the instance's dictionary
//! by position, in the order in which `__init__` fills it, and the key that is found there is
//! compared: 2 ns each, where looking a name up takes 5. That the dictionary has as many entries as
//! `__init__` makes shows that the instance has no hook of its own.
//!
//! `unfinished_tasks` is the next: reading, adding, storing and freeing the numbers takes 25 ns.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_int, c_long};
use std::ptr::null_mut;
use std::sync::OnceLock;

use aevent_runtime::clock::{self, NEVER};
use pyo3::Borrowed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::condition::Condition;
use crate::event;
use crate::lock::Lock;
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, state};
use crate::wait;

/// What `Queue.__init__` sets, in this order. The last is there since Python 3.13.
const ATTRIBUTES: [&str; 8] = [
    "maxsize",
    "queue",
    "mutex",
    "not_empty",
    "not_full",
    "all_tasks_done",
    "unfinished_tasks",
    "is_shutdown",
];
const MAXSIZE: usize = 0;
const QUEUE: usize = 1;
const NOT_EMPTY: usize = 3;
const NOT_FULL: usize = 4;
const UNFINISHED_TASKS: usize = 6;
const IS_SHUTDOWN: usize = 7;

const HOOKS: [&str; 3] = ["_put", "_get", "_qsize"];

/// In which order a class hands its items out, as far as we know it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By hooks that are not the standard library's.
    Custom,
    Fifo,
    Lifo,
    Priority,
}

/// How many classes are remembered.
const KNOWN_CLASSES: usize = 64;

/// What is looked up once. All references are owned, for ever.
struct Library {
    attributes: [Object; ATTRIBUTES.len()],
    /// How many of the attributes this Python has.
    attribute_count: usize,
    hook_names: [Object; HOOKS.len()],
    /// The hooks of each order.
    hooks: Vec<(Order, [Object; HOOKS.len()])>,
    original_put: Object,
    original_get: Object,
    empty: Object,
    full: Object,
    /// Null before Python 3.13.
    shut_down: Object,
    one: Object,
    item: Object,
    block: Object,
    timeout: Object,
    deque: *mut ffi::PyTypeObject,
    deque_append: ffi::PyCFunction,
    deque_popleft: ffi::PyCFunction,
    heappush: Object,
    heappop: Object,
    condition: *mut ffi::PyTypeObject,
    lock: *mut ffi::PyTypeObject,
    /// The orders of classes, by the versions of the classes: a version belongs to one state of one
    /// class for ever, so what was found out about it stays true.
    known: [Cell<(u32, Order)>; KNOWN_CLASSES],
}

// SAFETY: reached with the interpreter attached only, whose lock serialises it; the cells are read
// and written in one step each.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

static LIBRARY: OnceLock<Library> = OnceLock::new();

impl Library {
    #[inline(always)]
    fn order_of(&self, kind: *mut ffi::PyTypeObject) -> Order {
        // SAFETY: a type is valid as long as its instance, our caller's `self`.
        let version = unsafe { (*kind).tp_version_tag };
        let known = &self.known[version as usize % KNOWN_CLASSES];
        let (known_version, order) = known.get();
        if version == known_version && version != 0 {
            return order;
        }
        self.find_order(kind)
    }

    #[cold]
    fn find_order(&self, kind: *mut ffi::PyTypeObject) -> Order {
        // SAFETY: attached, like every caller.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: a valid type, see `order_of`.
        let class = unsafe { Borrowed::from_ptr(py, kind.cast()) };
        let mut hooks = [null_mut(); HOOKS.len()];
        for (hook, name) in hooks.iter_mut().zip(HOOKS) {
            match class.getattr(name) {
                // Compared only, so a borrowed address will do.
                Ok(found) => *hook = found.as_ptr(),
                Err(_) => return Order::Custom,
            }
        }
        let known = self.hooks.iter().find(|(_, known)| *known == hooks);
        // SAFETY: as above.
        let plain = unsafe {
            (*kind).tp_getattro.is_some_and(|slot| {
                std::ptr::fn_addr_eq(slot, ffi::PyObject_GenericGetAttr as ffi::getattrofunc)
            }) && (*kind).tp_setattro.is_some_and(|slot| {
                std::ptr::fn_addr_eq(slot, ffi::PyObject_GenericSetAttr as ffi::setattrofunc)
            })
        };
        // A property of that name would come before the instance's dictionary.
        let shadowed = ATTRIBUTES
            .iter()
            .any(|name| class.hasattr(name).unwrap_or(true));
        let order = match known {
            Some((order, _)) if plain && !shadowed => *order,
            _ => Order::Custom,
        };
        // The look-ups have given the class a version, if it had none.
        // SAFETY: as above.
        let version = unsafe { (*kind).tp_version_tag };
        self.known[version as usize % KNOWN_CLASSES].set((version, order));
        order
    }
}

/// A queue's attributes. Borrowed from its dictionary: valid until Python code runs.
struct Attributes {
    dict: Object,
    values: [Object; ATTRIBUTES.len()],
}

impl Attributes {
    #[inline(always)]
    fn new() -> Self {
        Self {
            dict: null_mut(),
            values: [null_mut(); ATTRIBUTES.len()],
        }
    }

    /// Reads at least those that are `needed`. False: something is missing, or the instance has hooks
    /// of its own.
    ///
    /// Filled in place: the values are written one by one, and copying them two at a time right
    /// after that stalls the processor, which was measured as 8 ns.
    ///
    /// # Safety
    /// `this` is an object whose class takes its attributes from the instance's dictionary.
    #[inline(always)]
    unsafe fn read(&mut self, library: &Library, this: Object, needed: &[usize]) -> bool {
        // SAFETY: as promised; the object keeps the dictionary alive, so the reference that we are
        // given need not be kept.
        unsafe {
            let dict = ffi::PyObject_GenericGetDict(this, null_mut());
            if dict.is_null() {
                ffi::PyErr_Clear();
                return false;
            }
            ffi::Py_DECREF(dict);
            self.dict = dict;
            // A hook of the instance's own would come on top of what `__init__` sets.
            let mut usual = (*dict.cast::<ffi::PyDictObject>()).ma_used
                == library.attribute_count as ffi::Py_ssize_t;
            let mut key = null_mut();
            for &index in needed {
                // Anything may be there, or nothing: the key tells.
                let mut position = index as ffi::Py_ssize_t;
                usual &= ffi::PyDict_Next(dict, &mut position, &mut key, &mut self.values[index])
                    != 0
                    && key == library.attributes[index];
            }
            if usual && !library.shut_down.is_null() {
                let mut position = IS_SHUTDOWN as ffi::Py_ssize_t;
                let value = &mut self.values[IS_SHUTDOWN];
                usual = ffi::PyDict_Next(dict, &mut position, &mut key, value) != 0
                    && key == library.attributes[IS_SHUTDOWN];
            }
            usual || self.search(library)
        }
    }

    /// Reads them once more, since Python code has run in the middle of it all. False with an
    /// exception set: it has done more than we can cope with.
    #[cold]
    unsafe fn read_again(&mut self, library: &Library, this: Object, needed: &[usize]) -> bool {
        // SAFETY: as for `read`; attached.
        unsafe {
            // `get` does not ask for it.
            self.values[UNFINISHED_TASKS] = library.one;
            if self.read(library, this, needed)
                && ffi::PyLong_CheckExact(self.values[UNFINISHED_TASKS]) != 0
            {
                return true;
            }
            PyRuntimeError::new_err("the queue was taken apart in the middle of put() or get()")
                .restore(Python::assume_attached());
        }
        false
    }

    /// The same for an instance that has more attributes, or got them in another order.
    #[inline(never)]
    unsafe fn search(&mut self, library: &Library) -> bool {
        self.values = [null_mut(); ATTRIBUTES.len()];
        let (mut position, mut key, mut value) = (0, null_mut(), null_mut());
        // SAFETY: a valid dictionary, and nothing here changes it: comparing strings, of which all
        // keys are, runs no Python code.
        unsafe {
            while ffi::PyDict_Next(self.dict, &mut position, &mut key, &mut value) != 0 {
                if ffi::PyUnicode_CheckExact(key) == 0 {
                    return false;
                }
                // What was set as an attribute is interned. What was not is missed, and the
                // original finds it.
                if let Some(index) = library.attributes.iter().position(|name| *name == key) {
                    self.values[index] = value;
                }
            }
            for name in library.hook_names {
                if ffi::PyDict_Contains(self.dict, name) != 0 {
                    return false;
                }
            }
        }
        self.values[..library.attribute_count]
            .iter()
            .all(|value| !value.is_null())
    }

    /// A condition, if it is one of ours on a lock of ours.
    ///
    /// # Safety
    /// The attributes are still valid.
    #[inline(always)]
    unsafe fn condition<'a>(
        &self,
        library: &Library,
        index: usize,
    ) -> Option<(&'a Condition, &'a Lock)> {
        let object = self.values[index];
        // SAFETY: the types are compared before each is relied on; both classes are frozen, so there
        // is no borrow to be checked. The references live as long as the attributes do.
        unsafe {
            if ffi::Py_TYPE(object) != library.condition {
                return None;
            }
            let py = Python::assume_attached();
            let condition: &'a Condition = &*std::ptr::from_ref(
                Borrowed::from_ptr(py, object)
                    .cast_unchecked::<Condition>()
                    .get(),
            );
            let lock = condition.lock_object();
            if ffi::Py_TYPE(lock) != library.lock {
                return None;
            }
            let lock: &'a Lock =
                &*std::ptr::from_ref(Borrowed::from_ptr(py, lock).cast_unchecked::<Lock>().get());
            Some((condition, lock))
        }
    }

    /// How many items there are, if they are in what the order keeps them in.
    #[inline(always)]
    unsafe fn len(&self, library: &Library, order: Order) -> Option<ffi::Py_ssize_t> {
        let queue = self.values[QUEUE];
        // SAFETY: a valid object; a deque and a list both keep their length there.
        unsafe {
            let expected = if order == Order::Fifo {
                library.deque
            } else {
                &raw mut ffi::PyList_Type
            };
            (ffi::Py_TYPE(queue) == expected).then(|| ffi::Py_SIZE(queue))
        }
    }

    /// Whether it was shut down, if that can be told.
    #[inline(always)]
    unsafe fn is_shut_down(&self, library: &Library) -> Option<bool> {
        if library.shut_down.is_null() {
            return Some(false);
        }
        let flag = self.values[IS_SHUTDOWN];
        // SAFETY: takes nothing.
        unsafe {
            if flag == ffi::Py_False() {
                Some(false)
            } else if flag == ffi::Py_True() {
                Some(true)
            } else {
                None
            }
        }
    }
}

/// A whole number that fits.
#[inline(always)]
unsafe fn whole(number: Object) -> Option<c_long> {
    // SAFETY: a valid object; an exact int is converted without running code.
    unsafe {
        if ffi::PyLong_CheckExact(number) == 0 {
            return None;
        }
        let mut overflow: c_int = 0;
        let value = ffi::PyLong_AsLongAndOverflow(number, &mut overflow);
        (overflow == 0).then_some(value)
    }
}

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

/// What somebody does in a queue.
trait Action: Copy {
    /// The condition that is waited for.
    const AWAITED: usize;
    /// The condition that is notified.
    const NOTIFIED: usize;
    /// By how many items it makes the queue longer.
    const GROWTH: ffi::Py_ssize_t;
    /// The attributes that it takes, beside `is_shutdown`.
    const NEEDED: &'static [usize];

    /// Whether it can be done now; `None` if that is for the original to say.
    unsafe fn is_possible(
        self,
        library: &Library,
        attributes: &Attributes,
        order: Order,
        first: bool,
    ) -> Option<bool>;
    /// Whether it is refused because the queue was shut down.
    fn is_refused(self, possible: bool, shut_down: bool) -> bool;
    /// Does it. Null with an exception set on failure. Runs Python code in a `Priority` queue only.
    unsafe fn act(self, library: &Library, attributes: &Attributes, order: Order) -> Object;
    /// What is counted when it was done. False with an exception set on failure.
    unsafe fn count(library: &Library, attributes: &Attributes) -> bool;
    /// Raised when it may not wait.
    fn complaint(library: &Library) -> Object;
}

#[derive(Clone, Copy)]
struct Put(Object);

impl Action for Put {
    const AWAITED: usize = NOT_FULL;
    const NOTIFIED: usize = NOT_EMPTY;
    const GROWTH: ffi::Py_ssize_t = 1;
    const NEEDED: &'static [usize] = &[MAXSIZE, QUEUE, NOT_EMPTY, NOT_FULL, UNFINISHED_TASKS];

    #[inline(always)]
    unsafe fn is_possible(
        self,
        library: &Library,
        attributes: &Attributes,
        order: Order,
        first: bool,
    ) -> Option<bool> {
        // SAFETY: the attributes are valid.
        unsafe {
            let len = attributes.len(library, order)?;
            // The count has to be one that we can add to.
            if ffi::PyLong_CheckExact(attributes.values[UNFINISHED_TASKS]) == 0 {
                return None;
            }
            let maxsize = whole(attributes.values[MAXSIZE])?;
            // As in the standard library, a limit that is lifted frees nobody who waits.
            Some((first && maxsize <= 0) || (len as c_long) < maxsize)
        }
    }

    #[inline(always)]
    fn is_refused(self, _possible: bool, shut_down: bool) -> bool {
        shut_down
    }

    #[inline(always)]
    unsafe fn act(self, library: &Library, attributes: &Attributes, order: Order) -> Object {
        let queue = attributes.values[QUEUE];
        // SAFETY: `is_possible` has seen that the container is what the order says.
        unsafe {
            match order {
                Order::Fifo => (library.deque_append)(queue, self.0),
                Order::Priority => {
                    let args = [queue, self.0];
                    ffi::PyObject_Vectorcall(library.heappush, args.as_ptr(), 2, null_mut())
                }
                Order::Lifo | Order::Custom => {
                    if ffi::PyList_Append(queue, self.0) < 0 {
                        return null_mut();
                    }
                    none()
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn count(library: &Library, attributes: &Attributes) -> bool {
        // SAFETY: the attributes are valid, and the dictionary has nothing but strings for keys. What
        // is replaced is an int, whose end runs no code.
        unsafe {
            let count = ffi::PyNumber_Add(attributes.values[UNFINISHED_TASKS], library.one);
            if count.is_null() {
                return false;
            }
            let key = library.attributes[UNFINISHED_TASKS];
            let result = ffi::PyDict_SetItem(attributes.dict, key, count);
            ffi::Py_DECREF(count);
            result == 0
        }
    }

    fn complaint(library: &Library) -> Object {
        library.full
    }
}

#[derive(Clone, Copy)]
struct Get;

impl Action for Get {
    const AWAITED: usize = NOT_EMPTY;
    const NOTIFIED: usize = NOT_FULL;
    const GROWTH: ffi::Py_ssize_t = -1;
    const NEEDED: &'static [usize] = &[QUEUE, NOT_EMPTY, NOT_FULL];

    #[inline(always)]
    unsafe fn is_possible(
        self,
        library: &Library,
        attributes: &Attributes,
        order: Order,
        _first: bool,
    ) -> Option<bool> {
        // SAFETY: the attributes are valid.
        unsafe { attributes.len(library, order).map(|len| len > 0) }
    }

    #[inline(always)]
    fn is_refused(self, possible: bool, shut_down: bool) -> bool {
        shut_down && !possible
    }

    #[inline(always)]
    unsafe fn act(self, library: &Library, attributes: &Attributes, order: Order) -> Object {
        let queue = attributes.values[QUEUE];
        // SAFETY: as for `Put`; the list is not empty.
        unsafe {
            match order {
                Order::Fifo => (library.deque_popleft)(queue, null_mut()),
                Order::Priority => ffi::PyObject_Vectorcall(library.heappop, &queue, 1, null_mut()),
                Order::Lifo | Order::Custom => {
                    let last = ffi::PyList_GET_SIZE(queue) - 1;
                    let item = ffi::PyList_GetItem(queue, last);
                    ffi::Py_XINCREF(item);
                    // The item lives on, so nothing ends here that could run code.
                    if item.is_null() || ffi::PyList_SetSlice(queue, last, last + 1, null_mut()) < 0
                    {
                        ffi::Py_XDECREF(item);
                        return null_mut();
                    }
                    item
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn count(_library: &Library, _attributes: &Attributes) -> bool {
        true
    }

    fn complaint(library: &Library) -> Object {
        library.empty
    }
}

#[inline(always)]
fn none() -> Object {
    // SAFETY: attached; the reference is new.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
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
        let mut result = action.act(library, &attributes, order);
        // A deque with a `maxlen` has dropped another item, whose end may have run anything.
        let undisturbed = ffi::Py_SIZE(queue) == expected;
        ffi::Py_DECREF(queue);
        let intact =
            undisturbed || result.is_null() || attributes.read_again(library, this, A::NEEDED);
        if !intact {
            ffi::Py_DECREF(result);
            result = null_mut();
        }
        Attempt::Over(conclude::<A>(library, &attributes, result))
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
        let mut result = action.act(library, attributes, Order::Priority);
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

/// The deadline that `block` and `timeout` mean: `None` for "do not wait"; `Err` for what the
/// original is to judge.
#[inline]
unsafe fn deadline(block: Object, timeout: Object) -> Result<Option<u64>, ()> {
    // SAFETY: valid objects or null; those of exact types are converted without running code.
    unsafe {
        let block = if block.is_null() || block == ffi::Py_True() {
            true
        } else if block == ffi::Py_False() || block == ffi::Py_None() {
            false
        } else {
            whole(block).ok_or(())? != 0
        };
        if !block {
            return Ok(None);
        }
        if timeout.is_null() || timeout == ffi::Py_None() {
            return Ok(Some(NEVER));
        }
        let seconds = if ffi::PyFloat_CheckExact(timeout) != 0 {
            ffi::PyFloat_AS_DOUBLE(timeout)
        } else {
            whole(timeout).ok_or(())? as f64
        };
        if seconds.is_nan() || seconds < 0.0 {
            return Err(());
        }
        Ok(Some(wait::deadline_after(seconds)))
    }
}

/// Sorts the arguments of a call into their places. False: the original shall complain.
#[inline(never)]
unsafe fn sort_arguments<const N: usize>(
    names: [Object; N],
    args: *const Object,
    nargs: usize,
    kwnames: Object,
) -> Option<[Object; N]> {
    if nargs > N {
        return None;
    }
    let mut places = [null_mut(); N];
    // SAFETY: `args` has `nargs` arguments and then one for each keyword; `kwnames` is null or a
    // tuple of strings.
    unsafe {
        for (index, place) in places[..nargs].iter_mut().enumerate() {
            *place = *args.add(index);
        }
        if !kwnames.is_null() {
            for index in 0..ffi::PyTuple_GET_SIZE(kwnames) {
                let name = ffi::PyTuple_GET_ITEM(kwnames, index);
                // Names in source code are interned. For others there is the original.
                let place = names.iter().position(|known| *known == name)?;
                if !places[place].is_null() {
                    return None;
                }
                places[place] = *args.add(nargs + index as usize);
            }
        }
    }
    Some(places)
}

#[cold]
unsafe fn call_original(
    original: Object,
    this: Object,
    args: *const Object,
    nargs: usize,
    kwnames: Object,
) -> Object {
    // SAFETY: `args` is as the interpreter gave it.
    unsafe {
        let keywords = if kwnames.is_null() {
            0
        } else {
            ffi::PyTuple_GET_SIZE(kwnames) as usize
        };
        let mut all = Vec::with_capacity(1 + nargs + keywords);
        all.push(this);
        all.extend_from_slice(std::slice::from_raw_parts(args, nargs + keywords));
        ffi::PyObject_Vectorcall(original, all.as_ptr(), all.len() - keywords, kwnames)
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

/// The C function behind a builtin method, if it takes its arguments as `flags` say.
fn c_function(method: &Bound<'_, PyAny>, flags: c_int) -> Option<ffi::PyCFunction> {
    // SAFETY: the type is checked before it is relied on.
    unsafe {
        if ffi::PyCFunction_CheckExact(method.as_ptr()) == 0
            || ffi::PyCFunction_GetFlags(method.as_ptr()) != flags
        {
            return None;
        }
        ffi::PyCFunction_GetFunction(method.as_ptr())
    }
}

/// Whether a function is one of the module's own: not somebody's wrapper, say.
fn is_own(module: &Bound<'_, PyModule>, function: &Bound<'_, PyAny>) -> bool {
    function
        .getattr("__globals__")
        .is_ok_and(|globals| globals.is(module.dict()))
}

fn build(module: &Bound<'_, PyModule>) -> PyResult<Option<Library>> {
    let py = module.py();
    let keep = |object: Bound<'_, PyAny>| object.into_ptr();
    let name = |text: &str| PyString::intern(py, text).into_ptr();
    let deque = module.getattr("deque")?;
    let sample = deque.call0()?;
    let (Some(deque_append), Some(deque_popleft)) = (
        c_function(&sample.getattr("append")?, ffi::METH_O),
        c_function(&sample.getattr("popleft")?, ffi::METH_NOARGS),
    ) else {
        return Ok(None);
    };
    let queue_class = module.getattr("Queue")?;
    let (original_put, original_get) = (queue_class.getattr("put")?, queue_class.getattr("get")?);
    if !is_own(module, &original_put) || !is_own(module, &original_get) {
        return Ok(None);
    }
    let mut hooks = Vec::new();
    for (order, class) in [
        (Order::Fifo, "Queue"),
        (Order::Lifo, "LifoQueue"),
        (Order::Priority, "PriorityQueue"),
    ] {
        let class = module.getattr(class)?;
        let found = HOOKS.map(|name| class.getattr(name).ok().filter(|hook| is_own(module, hook)));
        if let [Some(put), Some(get), Some(qsize)] = found {
            hooks.push((order, [put, get, qsize].map(keep)));
        }
    }
    let shut_down = module.getattr_opt("ShutDown")?;
    Ok(Some(Library {
        attributes: ATTRIBUTES.map(name),
        attribute_count: ATTRIBUTES.len() - usize::from(shut_down.is_none()),
        hook_names: HOOKS.map(name),
        hooks,
        original_put: keep(original_put),
        original_get: keep(original_get),
        empty: keep(module.getattr("Empty")?),
        full: keep(module.getattr("Full")?),
        shut_down: shut_down.map_or(null_mut(), keep),
        one: 1_i32.into_pyobject(py)?.into_any().into_ptr(),
        item: name("item"),
        block: name("block"),
        timeout: name("timeout"),
        deque: keep(deque).cast(),
        deque_append,
        deque_popleft,
        heappush: keep(module.getattr("heappush")?),
        heappop: keep(module.getattr("heappop")?),
        condition: py.get_type::<Condition>().into_ptr().cast(),
        lock: py.get_type::<Lock>().into_ptr().cast(),
        known: [const { Cell::new((0, Order::Custom)) }; KNOWN_CLASSES],
    }))
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
