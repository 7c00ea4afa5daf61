//! Where greenlet keeps the C stack of a suspended greenlet: for fetching it into the cache ahead of the
//! switch, and for nothing else.
//!
//! Greenlet does not tell. But it tells how much it has saved, and in its own object that number lies
//! beside the address; so we suspend a greenlet and look for the number. Should a future version keep it
//! elsewhere, it is not found, and nothing is fetched.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::Object;
use crate::raw;

const LINE: usize = 64;

/// The start of a greenlet, as greenlet.h has it.
#[repr(C)]
struct Greenlet {
    head: ffi::PyObject,
    weakrefs: Object,
    dict: Object,
    implementation: *const usize,
}

/// So many words of the implementation are looked at. Every one has more: what it is based on, the state
/// of exceptions, arguments, the stack, the interpreter's state, main greenlet, function and parent.
const WORDS: usize = 16;

/// The lines of the cache that the implementation takes.
const IMPLEMENTATION: usize = 4;

/// No more of a stack than this is fetched: for the rest the processor sees what we are about.
const AT_MOST: usize = 2048;

/// The word of the implementation that holds the saved stack's address; its size is in the next. 0: not
/// known.
static SAVED: AtomicUsize = AtomicUsize::new(0);

/// Asks for `lines` lines of the cache, the first of them that of `address`. Any address will do:
/// this reads nothing.
#[inline(always)]
pub fn fetch<T>(address: *const T, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = address.cast::<i8>().wrapping_add(line * LINE);
        // SAFETY: a hint to the processor, which is none if the address is not valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, lines);
}

/// Fetches what greenlet keeps with `greenlet`.
///
/// # Safety
/// It is a valid greenlet.
#[inline(always)]
pub unsafe fn fetch_implementation(greenlet: Object) {
    // SAFETY: the caller's promise.
    fetch(unsafe { implementation(greenlet) }, IMPLEMENTATION);
}

/// Fetches the saved stack of `greenlet`.
///
/// # Safety
/// It is a valid greenlet.
#[inline(always)]
pub unsafe fn fetch_saved(greenlet: Object) {
    let place = SAVED.load(Ordering::Relaxed);
    if place == 0 {
        return;
    }
    // SAFETY: the caller's promise; the place is less than `WORDS`.
    let (address, size) = unsafe {
        let implementation = implementation(greenlet);
        (*implementation.add(place), *implementation.add(place + 1))
    };
    fetch(
        std::ptr::without_provenance::<u8>(address),
        size.min(AT_MOST).div_ceil(LINE),
    );
}

/// # Safety
/// `greenlet` is a valid greenlet.
#[inline(always)]
unsafe fn implementation(greenlet: Object) -> *const usize {
    // SAFETY: the layout is greenlet.h's; the rest is the caller's promise.
    unsafe { (*greenlet.cast::<Greenlet>()).implementation }
}

/// Finds out where the address is. `Err`: greenlet is none that we know.
pub fn find(py: Python<'_>) -> PyResult<()> {
    static DEFINITION: raw::Definition = raw::Definition::none(c"aevent sample", suspend);
    // SAFETY: attached, and the table was imported. The greenlet is suspended by `suspend`, and dropped
    // suspended, which raises an exception in it that it passes on. What was switched with is owned.
    let sample = unsafe {
        let function = Bound::from_owned_ptr_or_err(py, DEFINITION.object())?;
        let parent = Bound::from_owned_ptr_or_err(py, super::current())?;
        let sample = super::new(function.as_ptr(), parent.as_ptr());
        let sample = Bound::from_owned_ptr_or_err(py, sample)?;
        drop(Bound::from_owned_ptr_or_err(
            py,
            super::switch(sample.as_ptr()),
        )?);
        sample
    };
    let size: usize = sample.getattr("_stack_saved")?.extract()?;
    // SAFETY: it is a greenlet, and every implementation has that many words.
    let words = unsafe { std::slice::from_raw_parts(implementation(sample.as_ptr()), WORDS) };
    let mut places = (1..WORDS - 1).filter(|&place| words[place + 1] == size && size > 0);
    if let (Some(place), None) = (places.next(), places.next()) {
        SAVED.store(place, Ordering::Relaxed);
    }
    Ok(())
}

/// What the sample runs: it goes back to where it came from at once.
unsafe extern "C" fn suspend(_module: Object, _args: Object) -> Object {
    let me = super::current();
    // SAFETY: attached, in a greenlet; the references are ours.
    unsafe {
        let parent = ffi::PyObject_GetAttrString(me, c"parent".as_ptr());
        ffi::Py_DECREF(me);
        if parent.is_null() {
            return null_mut();
        }
        let result = super::switch(parent);
        ffi::Py_DECREF(parent);
        result
    }
}
