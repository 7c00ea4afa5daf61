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

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::raw::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock, Weak};

use aevent_runtime::task::Task;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::run_loop;
use crate::stack::Object;
use crate::task::{Kind, Payload, TaskRef, release, state};

// Exported by CPython for its own extension modules, not declared for others. There is no documented
// look-up that takes the instance's dictionary as an argument.
unsafe extern "C" {
    fn _PyObject_GenericGetAttrWithDict(
        object: Object,
        name: Object,
        dict: Object,
        suppress: c_int,
    ) -> Object;
    fn _PyObject_GenericSetAttrWithDict(
        object: Object,
        name: Object,
        value: Object,
        dict: Object,
    ) -> c_int;
}

/// Spreads addresses. Nobody can choose the keys, so nothing stronger is needed.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        let mixed = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// One green thread's attributes.
struct Entry {
    dict: Py<PyDict>,
    /// Keeps the task's address from being given to another one, even if the task is dropped without
    /// having ended, in which case nobody calls `forget`.
    _task: Weak<Task<Payload>>,
}

/// By the task's address.
type Table = HashMap<usize, Entry, BuildHasherDefault<AddressHasher>>;

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
fn look_up<'py>(local: &Bound<'py, PyAny>, initialises: bool) -> PyResult<Bound<'py, PyAny>> {
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
        (*this).table().insert(
            address,
            Entry {
                dict: dict.clone().unbind(),
                _task: Arc::downgrade(task),
            },
        );
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
unsafe fn dictionary(this: Object) -> Object {
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

/// Whether an attribute name is `__dict__`; negative with an exception set.
#[inline(always)]
unsafe fn is_dict_name(name: Object, dict_name: Object) -> c_int {
    if name == dict_name {
        return 1;
    }
    // SAFETY: both are valid objects. Names in code are interned; the others are told apart by their
    // length mostly.
    unsafe {
        if ffi::PyUnicode_Check(name) == 0 || ffi::PyUnicode_GetLength(name) != 8 {
            return 0;
        }
        ffi::PyObject_RichCompareBool(name, dict_name, ffi::Py_EQ)
    }
}

unsafe extern "C" fn get_attribute(this: Object, name: Object) -> Object {
    // SAFETY: called by the interpreter with one of ours. The dictionary is held meanwhile: a
    // descriptor may run anything, and so may dropping what another thread's end leaves.
    unsafe {
        let dict = dictionary(this);
        if dict.is_null() {
            return null_mut();
        }
        let known = prepared();
        match is_dict_name(name, known.dict_name.as_ptr()) {
            0 => {}
            1 => return dict,
            _ => {
                ffi::Py_DECREF(dict);
                return null_mut();
            }
        }
        let mut value = null_mut();
        if ffi::Py_TYPE(this).cast() == known.exact.as_ptr() {
            // As CPython does: no class but a subclass can have anything that comes first.
            value = ffi::PyDict_GetItemWithError(dict, name);
            if value.is_null() && !ffi::PyErr_Occurred().is_null() {
                ffi::Py_DECREF(dict);
                return null_mut();
            }
            ffi::Py_XINCREF(value);
        }
        if value.is_null() {
            value = _PyObject_GenericGetAttrWithDict(this, name, dict, 0);
        }
        ffi::Py_DECREF(dict);
        value
    }
}

/// Sets an attribute; `value` is null to delete it.
unsafe extern "C" fn set_attribute(this: Object, name: Object, value: Object) -> c_int {
    // SAFETY: as in `get_attribute`.
    unsafe {
        let dict = dictionary(this);
        if dict.is_null() {
            return -1;
        }
        let result = match is_dict_name(name, prepared().dict_name.as_ptr()) {
            0 => _PyObject_GenericSetAttrWithDict(this, name, value, dict),
            1 => {
                ffi::PyErr_Format(
                    ffi::PyExc_AttributeError,
                    c"'%.100s' object attribute '%U' is read-only".as_ptr(),
                    (*ffi::Py_TYPE(this)).tp_name,
                    name,
                );
                -1
            }
            _ => -1,
        };
        ffi::Py_DECREF(dict);
        result
    }
}

unsafe extern "C" fn new(kind: *mut ffi::PyTypeObject, args: Object, kwargs: Object) -> Object {
    // SAFETY: called by the interpreter with a type of ours, a tuple, and a dictionary or null.
    unsafe {
        let py = Python::assume_attached();
        let given = |object: Object| match object.is_null() {
            true => 0,
            false => ffi::PyObject_IsTrue(object),
        };
        if own_init(kind).is_none() && (given(args) != 0 || given(kwargs) != 0) {
            if ffi::PyErr_Occurred().is_null() {
                PyTypeError::new_err("Initialization arguments are not supported").restore(py);
            }
            return null_mut();
        }
        let Some(alloc) = (*kind).tp_alloc else {
            return null_mut();
        };
        let object = alloc(kind, 0);
        if object.is_null() {
            return null_mut();
        }
        let this = object.cast::<Local>();
        ffi::Py_XINCREF(args);
        (*this).args = args;
        ffi::Py_XINCREF(kwargs);
        (*this).kwargs = kwargs;
        let object = Bound::from_owned_ptr(py, object);
        // The creator's own: the interpreter calls `__init__` when we return.
        match look_up(&object, false) {
            Ok(_) => object.into_ptr(),
            Err(error) => {
                drop(object);
                error.restore(py);
                null_mut()
            }
        }
    }
}

/// Takes everything out and drops it, which may run anything.
///
/// # Safety
/// `this` is one of ours; attached.
unsafe fn take_apart(this: *mut Local) {
    // SAFETY: the caller's promise; the table came from a box and is reached by nobody else now.
    unsafe {
        (*this).last_task = 0;
        (*this).last_dict = null_mut();
        let table = std::mem::replace(&mut (*this).table, null_mut());
        let original = std::mem::replace(&mut (*this).original, null_mut());
        let args = std::mem::replace(&mut (*this).args, null_mut());
        let kwargs = std::mem::replace(&mut (*this).kwargs, null_mut());
        if !table.is_null() {
            drop(Box::from_raw(table));
        }
        release(original);
        release(args);
        release(kwargs);
    }
}

unsafe extern "C" fn traverse(this: Object, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: called by the collector with one of ours. Its visitors change nothing.
    unsafe {
        let local = this.cast::<Local>();
        let own = [
            (*local).args,
            (*local).kwargs,
            (*local).original,
            ffi::Py_TYPE(this).cast(),
        ];
        let table = (*local).table.as_ref();
        let dictionaries = table
            .into_iter()
            .flat_map(|table| table.values().map(|entry| entry.dict.as_ptr()));
        for object in own.into_iter().chain(dictionaries) {
            if !object.is_null() {
                let result = visit(object, arg);
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(this: Object) -> c_int {
    // SAFETY: called by the collector with one of ours.
    unsafe { take_apart(this.cast()) };
    0
}

unsafe extern "C" fn dealloc(this: Object) {
    // SAFETY: the last reference is gone; the type is a heap type, which each instance refers to.
    // The weak references go first, so that no task finds us half taken apart.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        if !(*this.cast::<Local>()).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        take_apart(this.cast());
        let kind = ffi::Py_TYPE(this);
        if let Some(free) = (*kind).tp_free {
            free(this.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
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

fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot {
        slot,
        pfunc: pointer,
    };
    // Leaked: a type refers to its tables as long as the process lives.
    let members = Box::leak(Box::new([
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(Local, weakrefs) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        },
        ffi::PyMemberDef {
            name: std::ptr::null(),
            type_code: 0,
            offset: 0,
            flags: 0,
            doc: std::ptr::null(),
        },
    ]));
    let mut slots = [
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_setattro, set_attribute as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_doc, c"Thread-local data".as_ptr() as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"_thread._local".as_ptr(),
        basicsize: size_of::<Local>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC)
            as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and the slots are read during the call; what the slots point to is static.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec)) }
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
