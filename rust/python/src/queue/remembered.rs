//! What was found out about queues at earlier calls.
//!
//! A dictionary has a version, a number that changes with each change of it and that no other
//! dictionary ever has. So what was read from a queue's attributes, and checked, is true as long as
//! its dictionary has that version. `put` itself makes a new one, by counting the unfinished tasks,
//! and says so here: nothing else has changed then.
//!
//! Only for Pythons in which each change makes a new version: up to 3.12.

use std::cell::Cell;
use std::ffi::c_long;
use std::ptr::{null, null_mut};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::attributes::{Attributes, MAXSIZE, NOT_EMPTY, NOT_FULL, QUEUE, UNFINISHED_TASKS, whole};
use super::library::{Library, Order};
use crate::condition::Condition;
use crate::lock::Lock;
use crate::stack::Object;

/// How many queues are remembered.
const PLACES: usize = 64;

/// The beginning of a dictionary.
#[repr(C)]
struct DictObject {
    base: ffi::PyObject,
    used: ffi::Py_ssize_t,
    version: u64,
}

/// The version of a dictionary.
#[inline(always)]
unsafe fn version_of(dict: Object) -> u64 {
    // SAFETY: a valid dictionary, as the caller says.
    unsafe { (*dict.cast::<DictObject>()).version }
}

/// One queue's attributes. The pointers are borrowed from its dictionary, and valid while that has
/// the version.
pub(super) struct Remembered {
    /// 0: nothing is remembered.
    version: Cell<u64>,
    order: Cell<Order>,
    queue: Cell<Object>,
    not_empty: Cell<*const Condition>,
    not_full: Cell<*const Condition>,
    maxsize: Cell<c_long>,
    unfinished_tasks: Cell<c_long>,
}

impl Remembered {
    const fn nothing() -> Self {
        Self {
            version: Cell::new(0),
            order: Cell::new(Order::Custom),
            queue: Cell::new(null_mut()),
            not_empty: Cell::new(null()),
            not_full: Cell::new(null()),
            maxsize: Cell::new(0),
            unfinished_tasks: Cell::new(0),
        }
    }

    /// The container.
    #[inline(always)]
    pub(super) fn queue(&self) -> Object {
        self.queue.get()
    }

    #[inline(always)]
    pub(super) fn maxsize(&self) -> c_long {
        self.maxsize.get()
    }

    /// One of the two conditions.
    ///
    /// # Safety
    /// The version still holds, and does as long as the reference is used.
    #[inline(always)]
    pub(super) unsafe fn condition<'a>(&self, index: usize) -> &'a Condition {
        let place = if index == NOT_EMPTY {
            &self.not_empty
        } else {
            &self.not_full
        };
        // SAFETY: the caller's promise; the class is frozen.
        unsafe { &*place.get() }
    }

    /// The mutex of both conditions, if it is one of ours: a condition's lock may be exchanged.
    ///
    /// # Safety
    /// As for [`Self::condition`].
    #[inline(always)]
    pub(super) unsafe fn mutex<'a>(&self, library: &Library) -> Option<&'a Lock> {
        // SAFETY: as promised; the type is compared before it is relied on.
        unsafe {
            let lock = self.condition(NOT_EMPTY).lock_object();
            if lock != self.condition(NOT_FULL).lock_object() || ffi::Py_TYPE(lock) != library.lock
            {
                return None;
            }
            let py = Python::assume_attached();
            let lock = pyo3::Borrowed::from_ptr(py, lock).cast_unchecked::<Lock>();
            Some(&*std::ptr::from_ref(lock.get()))
        }
    }

    /// Counts one task more. False with an exception set on failure.
    ///
    /// # Safety
    /// The version still holds; `dict` is the dictionary that has it.
    #[inline(always)]
    pub(super) unsafe fn count(&self, library: &Library, dict: Object) -> bool {
        // SAFETY: as in `Put::count`.
        unsafe {
            let number = self.unfinished_tasks.get() + 1;
            let count = ffi::PyLong_FromLong(number);
            if count.is_null() {
                return false;
            }
            let result = ffi::PyDict_SetItem(dict, library.attributes[UNFINISHED_TASKS], count);
            ffi::Py_DECREF(count);
            if result < 0 {
                return false;
            }
            self.unfinished_tasks.set(number);
            self.version.set(version_of(dict));
            true
        }
    }
}

/// All of them.
pub(super) struct Memory {
    /// Whether versions can be relied on.
    works: bool,
    places: [Remembered; PLACES],
}

impl Memory {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            works: versions_tell(py)?,
            places: [const { Remembered::nothing() }; PLACES],
        })
    }

    #[inline(always)]
    fn place(&self, this: Object) -> &Remembered {
        // Objects with a dictionary and the collector's header lie at least this far apart.
        &self.places[(this as usize >> 6) % PLACES]
    }

    /// What is known of a queue, with its dictionary, if the items are in the `order`.
    ///
    /// # Safety
    /// `this` is an object whose class takes its attributes from the instance's dictionary.
    #[inline(always)]
    pub(super) unsafe fn of(&self, this: Object, order: Order) -> Option<(&Remembered, Object)> {
        let place = self.place(this);
        let version = place.version.get();
        if version == 0 {
            return None;
        }
        // SAFETY: as promised; the object keeps the dictionary alive, so the reference that we are
        // given need not be kept.
        unsafe {
            let dict = ffi::PyObject_GenericGetDict(this, null_mut());
            if dict.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            ffi::Py_DECREF(dict);
            (version_of(dict) == version && place.order.get() == order).then_some((place, dict))
        }
    }

    /// Remembers the attributes, which were read just now, unless they are unusual.
    ///
    /// # Safety
    /// They are valid, and those that `put` needs.
    #[inline(never)]
    pub(super) unsafe fn remember(
        &self,
        library: &Library,
        this: Object,
        attributes: &Attributes,
        order: Order,
    ) {
        if !self.works || !matches!(order, Order::Fifo | Order::Lifo) {
            return;
        }
        // SAFETY: as promised.
        unsafe {
            let (Some((not_empty, _)), Some((not_full, _)), Some(_), Some(maxsize), Some(tasks)) = (
                attributes.condition(library, NOT_EMPTY),
                attributes.condition(library, NOT_FULL),
                attributes.len(library, order),
                whole(attributes.values[MAXSIZE]),
                whole(attributes.values[UNFINISHED_TASKS]).filter(|tasks| *tasks < c_long::MAX / 2),
            ) else {
                return;
            };
            let place = self.place(this);
            place.order.set(order);
            place.queue.set(attributes.values[QUEUE]);
            place.not_empty.set(not_empty);
            place.not_full.set(not_full);
            place.maxsize.set(maxsize);
            place.unfinished_tasks.set(tasks);
            place.version.set(version_of(attributes.dict));
        }
    }
}

/// Whether versions are what we take them for.
fn versions_tell(py: Python<'_>) -> PyResult<bool> {
    if py.version_info() >= (3, 13) {
        return Ok(false);
    }
    let (dict, other) = (PyDict::new(py), PyDict::new(py));
    let mut seen = Vec::new();
    for value in 0..3 {
        for dict in [&dict, &other] {
            dict.set_item("key", value)?;
            // SAFETY: valid dictionaries.
            let version = unsafe { version_of(dict.as_ptr()) };
            dict.get_item("key")?;
            // SAFETY: as above.
            let same = unsafe { version_of(dict.as_ptr()) } == version;
            if !same || version == 0 || seen.contains(&version) {
                return Ok(false);
            }
            seen.push(version);
        }
    }
    Ok(true)
}
