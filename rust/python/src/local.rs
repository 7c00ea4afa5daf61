//! `threading.local`, with attributes that belong to the green thread.
//!
//! Whose they are: the running task's if it counts as a thread, under `native()` too; otherwise (in
//! a host's task, a native coroutine, or no task) the OS thread's. Semantics CPython's
//! `_thread._local`: the attributes end with their thread or with the local, whichever is first, and
//! a subclass's `__init__` is called again, with the same arguments, in each thread that uses it.
//!
//! The dictionaries of green threads are in a table in the local, where the collector sees them. A
//! task keeps only a weak reference to each local that it has used, for [`forget`] at its end, so
//! that it does not keep locals alive. Those of OS threads are kept by an original `_thread._local`,
//! which knows when a thread ends.
//!
//! The type is made by hand, not by pyo3: its attribute slots are called by the interpreter with
//! nothing in between, and CPython's own attribute look-up takes the dictionary from us.

mod class;
mod dictionary;
mod table;

use std::os::raw::c_int;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::stack::Object;
use crate::task::{TaskRef, release};
use class::make_type;
use table::{Entry, Table};

/// The instance. The interpreter allocates it zeroed.
#[repr(C)]
struct Local {
    base: ffi::PyObject,
    weakrefs: Object,
    /// What it was created with, for the `__init__` of other threads. Owned; `kwargs` may be null.
    args: Object,
    kwargs: Object,
    /// The original local that keeps the OS threads' dictionaries. Owned; null until it is needed.
    original: Object,
    /// The address of the task that used it last, 0 if none.
    last_task: usize,
    /// That task's dictionary: borrowed from the table, of which there is an entry for `last_task`
    /// whenever that is not 0.
    last_dict: Object,
    /// Whether it is each task's, not each thread's: see [`adopt_local`].
    by_task: bool,
    /// Whether `original` is a local that others have used before.
    adopted: bool,
    /// A `Box` made raw; null until a green thread uses it.
    ///
    /// Like everything here it is reached with the interpreter attached only, and never borrowed
    /// while Python code may run: what is taken out is dropped afterwards.
    table: *mut Table,
}

impl Local {
    fn table(&mut self) -> &mut Table {
        if self.table.is_null() {
            self.table = Box::into_raw(Box::default());
        }
        // SAFETY: it came from a box, and only `take_apart` frees it, which makes it null.
        unsafe { &mut *self.table }
    }

    fn find(&self, address: usize) -> Option<Object> {
        // SAFETY: as in `table`.
        let table = unsafe { self.table.as_ref() }?;
        table.get(&address).map(|entry| entry.dict.as_ptr())
    }

    /// Takes a task's dictionary out, to be dropped by the caller when nothing is borrowed.
    fn remove(&mut self, address: usize) -> Option<Entry> {
        if self.last_task == address {
            self.last_task = 0;
            self.last_dict = null_mut();
        }
        // SAFETY: as in `table`.
        unsafe { self.table.as_mut() }?.remove(&address)
    }
}

/// What `register` prepares.
struct Prepared {
    /// The original type, `_thread._local`.
    original: Py<PyAny>,
    /// `__dict__`, interned, as attribute names in code are.
    dict_name: Py<PyString>,
    /// Our type itself, whose instances need no look-up in the type first.
    exact: Py<PyAny>,
}

static PREPARED: OnceLock<Prepared> = OnceLock::new();

fn prepared() -> &'static Prepared {
    PREPARED
        .get()
        .expect("the module that exports the type was imported")
}

type InitSlot = unsafe extern "C" fn(Object, Object, Object) -> c_int;

/// The `__init__` of the object's class, if it is not `object`'s.
unsafe fn own_init(kind: *mut ffi::PyTypeObject) -> Option<InitSlot> {
    // SAFETY: the caller passes a type; `object` is one.
    let (slot, default) = unsafe { ((*kind).tp_init, ffi::PyBaseObject_Type.tp_init) };
    if slot.map(|slot| slot as usize) == default.map(|slot| slot as usize) {
        return None;
    }
    slot
}

/// The thread `task` has ended: drops its attributes of a local that [`State::locals`] has noted.
///
/// They are dropped here and now, which may run finalizers: to be called when nothing of the task is
/// borrowed and the task is not current. A local that is gone is passed over.
///
/// [`State::locals`]: crate::task::State::locals
pub fn forget(py: Python<'_>, local: &Py<PyAny>, task: &TaskRef) {
    let Ok(reference) = local.bind(py).cast::<PyWeakrefReference>() else {
        return;
    };
    let Some(local) = reference.upgrade() else {
        return;
    };
    let this = local.as_ptr().cast::<Local>();
    // SAFETY: only `remember` fills `locals`, with references to ours.
    let removed = unsafe { (*this).remove(Arc::as_ptr(task) as usize) };
    drop(removed);
}

/// Makes `local`, which is new, one whose attributes belong to the running task of ours, of whichever
/// kind, and to the OS thread in a host's task and outside tasks. OS threads find what they have put
/// into `former`, a local of either type, which is not to be used any more; or `None`.
#[pyfunction]
pub fn adopt_local(local: &Bound<'_, PyAny>, former: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = local.py();
    let known = prepared();
    let exact = known.exact.bind(py);
    if !local.is_instance(exact)? {
        return Err(PyTypeError::new_err(
            "adopt_local() expects a local of aevent's",
        ));
    }
    let this = local.as_ptr().cast::<Local>();
    let (original, adopted) = if former.is_none() {
        (None, false)
    } else if former.is_instance(exact)? {
        let former = former.as_ptr().cast::<Local>();
        // SAFETY: it is one of ours; what it has is valid.
        unsafe {
            (
                Bound::from_borrowed_ptr_or_opt(py, (*former).original),
                (*former).adopted,
            )
        }
    } else {
        (Some(former.clone()), true)
    };
    // SAFETY: it is one of ours, and new: there is nothing to lose.
    unsafe {
        (*this).by_task = true;
        (*this).adopted = adopted;
        if let Some(original) = original {
            let former = std::mem::replace(&mut (*this).original, original.into_ptr());
            release(former);
        }
    }
    Ok(())
}

/// Adds the type to the module, as `local`. To be called before `_thread` is patched, since the
/// original type serves ours.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let kind = make_type(py)?;
    let _ = PREPARED.set(Prepared {
        original: py.import("_thread")?.getattr("_local")?.unbind(),
        dict_name: PyString::intern(py, "__dict__").unbind(),
        exact: kind.clone().unbind(),
    });
    module.add("local", kind)
}
