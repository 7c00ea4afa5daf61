//! A portal is put around the coroutine of a host's task that runs already, whose object hides it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::Portal;
use crate::stack::Object;

/// Has `task`, a host's task object that hides its coroutine, go on with `portal` instead of
/// `coroutine`.
///
/// `accessor` is the method that says which it has, of the task's type in C and not of a subclass.
///
/// The object is searched for the pointer to the coroutine. It is replaced only if
///
/// - the pointer stands there exactly once: the field that the accessor has read is one such place,
///   so there is no other;
/// - the object tells the collector of exactly one reference to the coroutine: so that field owns it.
///
/// Nothing is assumed of where the field is. The caller asks the accessor again afterwards.
#[pyfunction]
pub fn replace_coroutine(
    task: &Bound<'_, PyAny>,
    accessor: &Bound<'_, PyAny>,
    portal: Bound<'_, Portal>,
) -> PyResult<()> {
    let refuse = || {
        PyRuntimeError::new_err(
            "the coroutine of this task cannot be replaced while it runs. Start the task with \
             TaskGroup.spawn(), or the program with aevent.run().",
        )
    };
    let coroutine = accessor.call1((task,))?;
    if !portal.get().coroutine.is(&coroutine) || owned_references(task, &coroutine) != 1 {
        return Err(refuse());
    }
    let size: usize = task.get_type().getattr("__basicsize__")?.extract()?;
    let words = size / size_of::<Object>();
    let start = task.as_ptr().cast::<Object>();
    let mut found = None;
    // The first two words are the reference count and the type.
    for index in 2..words {
        // SAFETY: the object is at least as large as its type says; any word can be read.
        if unsafe { start.add(index).read() } == coroutine.as_ptr() {
            if found.is_some() {
                return Err(refuse());
            }
            found = Some(index);
        }
    }
    let index = found.ok_or_else(refuse)?;
    // SAFETY: the word is the field that the accessor has read, and owns a reference: see above. It
    // gets one to the portal instead, and the portal keeps the coroutine alive for the step that may
    // be running.
    unsafe {
        start.add(index).write(portal.into_any().into_ptr());
        ffi::Py_DECREF(coroutine.as_ptr());
    }
    Ok(())
}

/// How many references to `target` `object` tells the collector of.
fn owned_references(object: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> usize {
    struct Count {
        target: Object,
        found: usize,
    }
    unsafe extern "C" fn visit(object: Object, argument: *mut std::ffi::c_void) -> std::ffi::c_int {
        // SAFETY: what was passed to the traversal below.
        let count = unsafe { &mut *argument.cast::<Count>() };
        count.found += usize::from(object == count.target);
        0
    }
    let mut count = Count {
        target: target.as_ptr(),
        found: 0,
    };
    // SAFETY: a live object, visited by its own type's function, as the collector does, with the
    // interpreter attached; the visitor runs no Python code.
    unsafe {
        if let Some(traverse) = (*ffi::Py_TYPE(object.as_ptr())).tp_traverse {
            traverse(object.as_ptr(), visit, (&raw mut count).cast());
        }
    }
    count.found
}
