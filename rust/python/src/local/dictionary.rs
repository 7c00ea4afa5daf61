//! Whose dictionary of a local it is: the running task's, or the OS thread's. Made when it is asked for.

use std::ptr::null_mut;
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use super::table::Entry;
use super::{Local, own_init, prepared};
use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, TaskRef, state};

/// Calls `__init__` again, in a thread other than the one that created the object.
fn initialise(local: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = local.py();
    let this = local.as_ptr().cast::<Local>();
    // SAFETY: `local` is one of ours. The arguments are held during the call, since the collector
    // may take them out meanwhile.
    unsafe {
        let Some(init) = own_init(ffi::Py_TYPE(local.as_ptr())) else {
            return Ok(());
        };
        let args = Bound::from_borrowed_ptr_or_opt(py, (*this).args)
            .unwrap_or_else(|| PyTuple::empty(py).into_any());
        let kwargs = Bound::from_borrowed_ptr_or_opt(py, (*this).kwargs);
        let kwargs = kwargs.as_ref().map_or(null_mut(), |kwargs| kwargs.as_ptr());
        if init(local.as_ptr(), args.as_ptr(), kwargs) < 0 {
            return Err(PyErr::fetch(py));
        }
    }
    Ok(())
}

/// The caller's dictionary, made if it is not there. `initialises`: then `__init__` is called too.
pub(super) fn look_up<'py>(
    local: &Bound<'py, PyAny>,
    initialises: bool,
) -> PyResult<Bound<'py, PyAny>> {
    match run_loop::current() {
        Some(task) if has_its_own(local, &task) => of_task(local, &task, initialises),
        _ => of_os_thread(local, initialises),
    }
}

/// Whether the task's attributes are its own, or the OS thread's.
fn has_its_own(local: &Bound<'_, PyAny>, task: &TaskRef) -> bool {
    let state = state(task);
    // SAFETY: `local` is one of ours.
    state.is_thread
        || (state.kind != Kind::Host && unsafe { (*local.as_ptr().cast::<Local>()).by_task })
}

fn of_task<'py>(
    local: &Bound<'py, PyAny>,
    task: &TaskRef,
    initialises: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = local.py();
    let this = local.as_ptr().cast::<Local>();
    let address = Arc::as_ptr(task) as usize;
    // SAFETY: `local` is one of ours; nothing is borrowed longer than the expression.
    if let Some(dict) = unsafe { (*this).find(address) } {
        // SAFETY: the table has the dictionary.
        return Ok(unsafe {
            (*this).last_task = address;
            (*this).last_dict = dict;
            Bound::from_borrowed_ptr(py, dict)
        });
    }
    let dict = PyDict::new(py);
    let reference = PyWeakrefReference::new(local)?.into_any().unbind();
    // Both may have run the collector, hence finalizers, hence anything.
    // SAFETY: as above.
    if unsafe { (*this).find(address) }.is_some() {
        return of_task(local, task, initialises);
    }
    remember(py, task, reference);
    // SAFETY: as above; there was no such key, so nothing is dropped by the insertion.
    unsafe {
        (*this)
            .table()
            .insert(address, Entry::new(dict.clone().unbind(), task));
        (*this).last_task = address;
        (*this).last_dict = dict.as_ptr();
    }
    if initialises && let Err(error) = initialise(local) {
        // The next access shall try again.
        // SAFETY: as above.
        let removed = unsafe { (*this).remove(address) };
        drop(removed);
        unremember(local, task);
        return Err(error);
    }
    Ok(dict.into_any())
}

/// Notes a local, by a weak reference, for the end of the task.
fn remember(py: Python<'_>, task: &TaskRef, reference: Py<PyAny>) {
    let mut locals = std::mem::take(&mut state(task).locals);
    if locals.len() == locals.capacity() {
        // Before it grows. A task that lives long may use any number of short-lived locals, and only
        // those that are alive are worth their place. Growing doubles, so this costs nothing on
        // average.
        locals.retain(|reference| is_alive(py, reference));
        locals.reserve(locals.len().max(4));
    }
    locals.push(reference);
    // None of the above runs Python code (these weak references have no callbacks), so nobody has
    // put anything there.
    state(task).locals = locals;
}

fn is_alive(py: Python<'_>, reference: &Py<PyAny>) -> bool {
    reference
        .bind(py)
        .cast::<PyWeakrefReference>()
        .is_ok_and(|reference| reference.upgrade().is_some())
}

fn unremember(local: &Bound<'_, PyAny>, task: &TaskRef) {
    let Ok(reference) = PyWeakrefReference::new(local) else {
        return;
    };
    let locals = &mut state(task).locals;
    // Most likely the last one. The object has one weak reference without a callback, which all
    // tasks share, so it can be found by its address.
    let found = locals.iter().rposition(|known| known.is(&reference));
    let removed = found.map(|index| locals.swap_remove(index));
    drop(removed);
}

fn of_os_thread<'py>(local: &Bound<'py, PyAny>, initialises: bool) -> PyResult<Bound<'py, PyAny>> {
    let py = local.py();
    let this = local.as_ptr().cast::<Local>();
    let known = prepared();
    // SAFETY: `local` is one of ours, and what it has is valid.
    let mut original = unsafe { Bound::from_borrowed_ptr_or_opt(py, (*this).original) };
    if original.is_none() {
        let fresh = known.original.bind(py).call0()?;
        // SAFETY: as above. Making it may have run anything, so look again.
        original = Some(unsafe {
            if (*this).original.is_null() {
                (*this).original = fresh.into_ptr();
            }
            Bound::from_borrowed_ptr(py, (*this).original)
        });
    }
    let original = original.expect("it was made if it was not there");
    // SAFETY: as above.
    if unsafe { (*this).adopted } {
        return original.getattr(&known.dict_name);
    }
    // Any name would do; this one is at hand.
    let key = pyo3::intern!(py, "attributes");
    if let Some(dict) = original.getattr_opt(key)? {
        return Ok(dict);
    }
    let dict = PyDict::new(py).into_any();
    if let Some(dict) = original.getattr_opt(key)? {
        return Ok(dict);
    }
    original.setattr(key, &dict)?;
    if initialises && let Err(error) = initialise(local) {
        // If this fails too, it has been removed already.
        let _ = original.delattr(key);
        return Err(error);
    }
    Ok(dict)
}

/// The caller's dictionary: owned, or null with an exception set.
///
/// # Safety
/// `this` is one of ours; attached.
#[inline(always)]
pub(super) unsafe fn dictionary(this: Object) -> Object {
    // SAFETY: the caller's promise; see `last_dict`.
    unsafe {
        let local = this.cast::<Local>();
        if let Some(address) = run_loop::current_address()
            && (*local).last_task == address
        {
            let dict = (*local).last_dict;
            ffi::Py_INCREF(dict);
            return dict;
        }
    }
    // SAFETY: as above.
    unsafe { dictionary_slow(this) }
}

#[inline(never)]
unsafe fn dictionary_slow(this: Object) -> Object {
    // SAFETY: the caller's promise.
    unsafe {
        let py = Python::assume_attached();
        match look_up(&Bound::from_borrowed_ptr(py, this), true) {
            Ok(dict) => dict.into_ptr(),
            Err(error) => {
                error.restore(py);
                null_mut()
            }
        }
    }
}
