//! The arguments of `put` and `get`, and what hands them on to the originals.

use std::ptr::null_mut;

use aevent_runtime::clock::NEVER;
use pyo3::ffi;

use super::attributes::whole;
use crate::stack::Object;
use crate::wait;

/// The deadline that `block` and `timeout` mean: `None` for "do not wait"; `Err` for what the
/// original is to judge.
#[inline]
pub(super) unsafe fn deadline(block: Object, timeout: Object) -> Result<Option<u64>, ()> {
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
        if seconds.is_nan() {
            // The original asks again and again whether it is over, which it never is.
            return Ok(Some(NEVER));
        }
        if seconds < 0.0 {
            return Err(());
        }
        Ok(Some(wait::deadline_after(seconds)))
    }
}

/// Sorts the arguments of a call into their places. False: the original shall complain.
#[inline(never)]
pub(super) unsafe fn sort_arguments<const N: usize>(
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
pub(super) unsafe fn call_original(
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
