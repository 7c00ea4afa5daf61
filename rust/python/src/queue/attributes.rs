//! The attributes of a queue, read without a look-up each.
//!
//! They are taken from the instance's dictionary by position, in the order in which `__init__` fills
//! it, and the key that is found there is compared: 2 ns each, where looking a name up takes 5. That
//! the dictionary has as many entries as `__init__` makes shows that the instance has no hook of its
//! own.

use std::ffi::{c_int, c_long};
use std::ptr::null_mut;

use pyo3::Borrowed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::library::{Library, Order};
use crate::condition::Condition;
use crate::lock::Lock;
use crate::stack::Object;

/// What `Queue.__init__` sets, in this order. The last is there since Python 3.13.
pub(super) const ATTRIBUTES: [&str; 8] = [
    "maxsize",
    "queue",
    "mutex",
    "not_empty",
    "not_full",
    "all_tasks_done",
    "unfinished_tasks",
    "is_shutdown",
];
pub(super) const MAXSIZE: usize = 0;
pub(super) const QUEUE: usize = 1;
pub(super) const NOT_EMPTY: usize = 3;
pub(super) const NOT_FULL: usize = 4;
pub(super) const UNFINISHED_TASKS: usize = 6;
pub(super) const IS_SHUTDOWN: usize = 7;

/// A queue's attributes. Borrowed from its dictionary: valid until Python code runs.
pub(super) struct Attributes {
    pub(super) dict: Object,
    pub(super) values: [Object; ATTRIBUTES.len()],
}

impl Attributes {
    #[inline(always)]
    pub(super) fn new() -> Self {
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
    pub(super) unsafe fn read(
        &mut self,
        library: &Library,
        this: Object,
        needed: &[usize],
    ) -> bool {
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
    pub(super) unsafe fn read_again(
        &mut self,
        library: &Library,
        this: Object,
        needed: &[usize],
    ) -> bool {
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
    pub(super) unsafe fn search(&mut self, library: &Library) -> bool {
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
    pub(super) unsafe fn condition<'a>(
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
    pub(super) unsafe fn len(&self, library: &Library, order: Order) -> Option<ffi::Py_ssize_t> {
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
    pub(super) unsafe fn is_shut_down(&self, library: &Library) -> Option<bool> {
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
pub(super) unsafe fn whole(number: Object) -> Option<c_long> {
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
