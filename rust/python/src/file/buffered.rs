//! Buffered files shared by tasks.
//!
//! `io.BufferedReader` and its kin have a lock in C that belongs to the OS thread. A task that parks
//! in the raw file below holds it, and another task of the thread that uses the same object would be
//! told "reentrant call". So in a task each method first looks who is inside, and waits its turn:
//!
//! - another task of this thread: until that leaves, which wakes those who wait;
//! - another OS thread: nothing tells when it leaves, so the task asks again after a while. To call
//!   the method would block the loop;
//! - the task itself, in a signal handler or a raw file of its own: the method is called, and says
//!   what it always says.
//!
//! Who is inside is a field of the C object, the number of its thread. Where it lies is not written
//! down here but found out when `io` is patched (see `_monkey/io.py`); if it cannot be found, buffered
//! files are left alone.

use std::os::raw::c_ulong;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aevent_runtime::clock::{self, NEVER};
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::Outcome;
use crate::raw::{self, Definition};
use crate::run_loop;
use crate::stack::Object;
use crate::task::state;
use crate::wait;

/// Where in the object the number of the thread lies that is inside; 0: not known.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// Who waits for somebody to leave. One queue for all objects: there is hardly ever anybody in it.
fn queue() -> &'static WaitQueue {
    static QUEUE: OnceLock<WaitQueue> = OnceLock::new();
    QUEUE.get_or_init(WaitQueue::new)
}

/// The longest time until a task asks again whether another OS thread has left.
const LONGEST_PAUSE: u64 = 20_000_000;
/// The first.
const FIRST_PAUSE: u64 = 100_000;

/// The offsets of the machine words in `object` that hold `value`. Only for objects of types that
/// are written in C, whose size is fixed.
#[pyfunction]
pub fn find_word(object: &Bound<'_, PyAny>, value: usize) -> Vec<usize> {
    let kind = object.get_type();
    // SAFETY: the type is valid; the object has at least its basic size, and is aligned.
    unsafe {
        let size = (*kind.as_type_ptr()).tp_basicsize as usize;
        let words = object.as_ptr().cast::<usize>();
        (0..size / size_of::<usize>())
            .filter(|index| words.add(*index).read_volatile() == value)
            .map(|index| index * size_of::<usize>())
            .collect()
    }
}

/// Says at which offset the number of the thread that is inside was found.
#[pyfunction]
pub fn set_buffered_owner(offset: usize) {
    OWNER.store(offset, Ordering::Relaxed);
}

/// The number of the thread that is inside; 0: nobody.
#[inline(always)]
unsafe fn owner(object: Object) -> c_ulong {
    // SAFETY: a buffered file, as the caller has checked, and the offset is one in it.
    unsafe {
        object
            .byte_add(OWNER.load(Ordering::Relaxed))
            .cast::<c_ulong>()
            .read_volatile()
    }
}

/// Waits until nobody else is inside, or the running task is itself.
#[cold]
#[inline(never)]
unsafe fn wait_turn(object: Object) -> Outcome<()> {
    // SAFETY: attached: Python has called us.
    let py = unsafe { Python::assume_attached() };
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating().cloned())
    else {
        return Ok(());
    };
    let me = run_loop::thread_identity() as c_ulong;
    let mut pause = FIRST_PAUSE;
    loop {
        if state(&task).inside.contains(&(object as usize)) {
            return Ok(());
        }
        let mut waiter = queue().listen();
        // SAFETY: the caller of ours keeps the object alive.
        let deadline = match unsafe { owner(object) } {
            0 => return Ok(()),
            thread if thread == me => NEVER,
            _ => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                clock::now() + pause
            }
        };
        wait::park_until(py, event_loop, &task, deadline, false, |cx| waiter.poll(cx))?;
    }
}

/// Calls `method(object, …)` when it is the running task's turn.
#[inline(always)]
unsafe fn in_turn(object: Object, call: impl FnOnce() -> Object) -> Object {
    // SAFETY: see the functions that are called; the object is a buffered file.
    unsafe {
        if owner(object) != 0 && wait_turn(object).is_err() {
            return null_mut();
        }
        let Some(task) = run_loop::cooperating().cloned() else {
            return call();
        };
        state(&task).inside.push(object as usize);
        let result = call();
        let inside = &mut state(&task).inside;
        if let Some(last) = inside.iter().rposition(|it| *it == object as usize) {
            inside.swap_remove(last);
        }
        if !queue().is_empty() && owner(object) == 0 {
            queue().notify_all();
        }
        result
    }
}

static METHOD: Definition = Definition::keywords(c"buffered_method", method);

/// A function that does what `original`, a method of a buffered file, does, when it is its turn.
#[pyfunction]
pub fn buffered_method<'py>(original: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(original.py(), METHOD.that_knows([original])) }
}

unsafe extern "C" fn method(
    this: Object,
    args: *const Object,
    nargs: isize,
    names: Object,
) -> Object {
    // SAFETY: Python calls us with the arguments; the function knows the original.
    unsafe {
        let [original] = *raw::known(this);
        let call = || ffi::PyObject_Vectorcall(original, args, nargs as usize, names);
        // Anything else the original refuses.
        if nargs == 0 || !is_buffered(*args) {
            return call();
        }
        in_turn(*args, call)
    }
}

/// The classes whose objects are looked into.
static CLASSES: OnceLock<Vec<Py<PyType>>> = OnceLock::new();

unsafe fn is_buffered(object: Object) -> bool {
    let Some(classes) = CLASSES.get() else {
        return false;
    };
    // SAFETY: valid objects.
    classes
        .iter()
        .any(|kind| unsafe { ffi::PyObject_TypeCheck(object, kind.as_ptr().cast()) } != 0)
}

/// An iterator's step in C.
type Next = unsafe extern "C" fn(Object) -> Object;

/// The original step of each class.
static STEPS: OnceLock<Vec<(usize, Next)>> = OnceLock::new();

unsafe extern "C" fn step(this: Object) -> Object {
    // SAFETY: the interpreter calls us with a buffered file.
    unsafe {
        let mut kind = ffi::Py_TYPE(this);
        let original = loop {
            if kind.is_null() {
                ffi::PyErr_SetString(ffi::PyExc_TypeError, c"not a buffered file".as_ptr());
                return null_mut();
            }
            let known = STEPS
                .get()
                .and_then(|steps| steps.iter().find(|(class, _)| *class == kind as usize));
            if let Some((_, original)) = known {
                break *original;
            }
            kind = (*kind).tp_base;
        };
        if !run_loop::cooperates() {
            return original(this);
        }
        in_turn(this, || original(this))
    }
}

/// Says which classes buffered files are of, and has iterating over them wait its turn too. The
/// interpreter calls an iterator's step by a slot of the class, not by its name.
#[pyfunction]
pub fn watch_buffered(classes: Vec<Bound<'_, PyType>>) -> PyResult<()> {
    let mut steps = Vec::new();
    for kind in &classes {
        // SAFETY: a valid type.
        match unsafe { (*kind.as_type_ptr()).tp_iternext } {
            Some(original) => steps.push((kind.as_ptr() as usize, original as Next)),
            None => return Err(PyTypeError::new_err("a buffered file can be iterated over")),
        }
    }
    if STEPS.set(steps).is_ok() {
        for kind in &classes {
            // SAFETY: as above; the interpreter's lock serialises readers of the slot.
            unsafe { (*kind.as_type_ptr()).tp_iternext = Some(step) };
        }
        let _ = CLASSES.set(classes.into_iter().map(Bound::unbind).collect());
    }
    Ok(())
}

/// Sets an attribute of a class that is written in C, which Python code cannot.
#[pyfunction]
pub fn set_class_attribute(
    kind: &Bound<'_, PyType>,
    name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: the class and its dictionary are valid. No slot depends on the names that are set this
    // way, and the interpreter is told that what it remembers of the class is void.
    unsafe {
        let pointer = kind.as_type_ptr();
        let dict = (*pointer).tp_dict;
        if dict.is_null() {
            return Err(PyTypeError::new_err(
                "the class keeps its attributes elsewhere",
            ));
        }
        if ffi::PyDict_SetItem(dict, name.as_ptr(), value.as_ptr()) < 0 {
            return Err(PyErr::fetch(kind.py()));
        }
        ffi::PyType_Modified(pointer);
    }
    Ok(())
}
