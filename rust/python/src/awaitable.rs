//! What the async methods of our objects return: in a native task the wait itself, so that no Python
//! frame stands between the task and what it waits for; elsewhere a coroutine that asks the host.

use std::sync::OnceLock;

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyType};

use crate::run_loop::{self, Driver};
use crate::wait::Wait;

/// `async def wait_as_checkpoint(wait)`, of the layer above.
static ON_HOST: OnceLock<Py<PyAny>> = OnceLock::new();

/// The async methods, by class and name: nothing else tells that calling them makes a coroutine.
static METHODS: OnceLock<Vec<(Py<PyType>, &'static [&'static str])>> = OnceLock::new();

/// See `_core.pyi`.
#[pyfunction]
pub fn set_wait_on_host(function: Py<PyAny>) {
    let _ = ON_HOST.set(function);
}

/// What the async method returns that waits for `wait`, a checkpoint.
///
/// Nothing is begun before it is awaited. Who calls the method decides: outside a native loop it is
/// a coroutine, which any task can await.
pub fn give(py: Python<'_>, wait: Wait) -> PyResult<Py<PyAny>> {
    let wait = Py::new(py, wait)?;
    let is_native = run_loop::existing().is_some_and(|it| it.driver() == Driver::Native);
    match ON_HOST.get() {
        Some(on_host) if !is_native => on_host.call1(py, (wait,)),
        _ => Ok(wait.into_any()),
    }
}

/// `True`, which taking something gives in asynchronous code as in synchronous.
pub fn truth(py: Python<'_>) -> Py<PyAny> {
    PyBool::new(py, true).to_owned().into_any().unbind()
}

/// Says which methods are async.
pub fn register(methods: Vec<(Py<PyType>, &'static [&'static str])>) {
    let _ = METHODS.set(methods);
}

/// Whether a builtin function is an async method of one of our objects.
pub fn is_async_method(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    // SAFETY: the caller has checked that it is a builtin function; what it is bound to is borrowed.
    let object = unsafe {
        Bound::from_borrowed_ptr_or_opt(function.py(), ffi::PyCFunction_GetSelf(function.as_ptr()))
    };
    let (Some(object), Some(methods)) = (object, METHODS.get()) else {
        return Ok(false);
    };
    for (class, names) in methods {
        if object.is_instance(class.bind(function.py()))? {
            let name: String = function.getattr("__name__")?.extract()?;
            return Ok(names.contains(&name.as_str()));
        }
    }
    Ok(false)
}

/// An awaitable's iterator that has its result at once.
#[pyclass(module = "aevent._core")]
pub struct Immediate {
    pub value: Option<Py<PyAny>>,
}

#[pymethods]
impl Immediate {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let value = self.value.take().unwrap_or_else(|| py.None());
        Err(PyStopIteration::new_err((value,)))
    }
}
