//! What the part in Python (`_task_groups.py`) does for a task group.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// See the module's description.
pub struct Hooks {
    /// `(group, host)`: the group of a host's.
    pub host_group: Py<PyAny>,
    /// What kind of function it is, for those that `makes_coroutine` cannot tell.
    pub is_coroutine_function: Py<PyAny>,
    /// `(fn, *args)`: runs an async function in a green thread.
    pub call_async: Py<PyAny>,
    /// `(group, fn, args, name)`: the coroutine of `start`.
    pub start: Py<PyAny>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

pub fn hooks(py: Python<'_>) -> PyResult<&Hooks> {
    HOOKS
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("aevent._task_groups was not imported"))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn set_group_hooks(
    py: Python<'_>,
    host_group: Py<PyAny>,
    is_coroutine_function: Py<PyAny>,
    call_async: Py<PyAny>,
    start: Py<PyAny>,
) {
    let _ = HOOKS.set(
        py,
        Hooks {
            host_group,
            is_coroutine_function,
            call_async,
            start,
        },
    );
}
