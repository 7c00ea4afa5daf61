//! What `put` and `get` differ in.

use std::ffi::c_long;
use std::ptr::null_mut;

use pyo3::ffi;

use super::attributes::{Attributes, MAXSIZE, NOT_EMPTY, NOT_FULL, QUEUE, UNFINISHED_TASKS, whole};
use super::library::{Library, Order};
use crate::raw::none;
use crate::stack::Object;

/// What somebody does in a queue.
pub(super) trait Action: Copy {
    /// The condition that is waited for.
    const AWAITED: usize;
    /// The condition that is notified.
    const NOTIFIED: usize;
    /// By how many items it makes the queue longer.
    const GROWTH: ffi::Py_ssize_t;
    /// Whether it changes the number of unfinished tasks.
    const COUNTS: bool;
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
    /// The same for a queue whose container and numbers are what they should be.
    fn is_possible_with(self, maxsize: c_long, len: ffi::Py_ssize_t, first: bool) -> bool;
    /// Whether it is refused because the queue was shut down.
    fn is_refused(self, possible: bool, shut_down: bool) -> bool;
    /// Does it, in the container. Null with an exception set on failure. Runs Python code in a `Priority` queue only.
    unsafe fn act(self, library: &Library, queue: Object, order: Order) -> Object;
    /// What is counted when it was done. False with an exception set on failure.
    unsafe fn count(library: &Library, attributes: &Attributes) -> bool;
    /// Raised when it may not wait.
    fn complaint(library: &Library) -> Object;
}

#[derive(Clone, Copy)]
pub(super) struct Put(pub(super) Object);

impl Action for Put {
    const AWAITED: usize = NOT_FULL;
    const NOTIFIED: usize = NOT_EMPTY;
    const GROWTH: ffi::Py_ssize_t = 1;
    const COUNTS: bool = true;
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
            Some(self.is_possible_with(maxsize, len, first))
        }
    }

    #[inline(always)]
    fn is_possible_with(self, maxsize: c_long, len: ffi::Py_ssize_t, first: bool) -> bool {
        // As in the standard library, a limit that is lifted frees nobody who waits.
        (first && maxsize <= 0) || (len as c_long) < maxsize
    }

    #[inline(always)]
    fn is_refused(self, _possible: bool, shut_down: bool) -> bool {
        shut_down
    }

    #[inline(always)]
    unsafe fn act(self, library: &Library, queue: Object, order: Order) -> Object {
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
pub(super) struct Get;

impl Action for Get {
    const AWAITED: usize = NOT_EMPTY;
    const NOTIFIED: usize = NOT_FULL;
    const GROWTH: ffi::Py_ssize_t = -1;
    const COUNTS: bool = false;
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
    fn is_possible_with(self, _maxsize: c_long, len: ffi::Py_ssize_t, _first: bool) -> bool {
        len > 0
    }

    #[inline(always)]
    fn is_refused(self, possible: bool, shut_down: bool) -> bool {
        shut_down && !possible
    }

    #[inline(always)]
    unsafe fn act(self, library: &Library, queue: Object, order: Order) -> Object {
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
