//! A patched module as those see it who keep the originals.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

/// Stands for a module in the hosts' own: every attribute is the module's, at the moment it is asked
/// for, except that for what aevent has put there it gives something else.
///
/// It is no copy, so that what a test or a program puts into the module is seen by everybody.
#[pyclass(module = "aevent._core", frozen)]
pub struct ModuleView {
    module: Py<PyAny>,
    /// Name to a pair: what stands in the module, and what is given for it.
    given: Py<PyDict>,
}

#[pymethods]
impl ModuleView {
    #[new]
    fn new(module: Py<PyAny>, given: Py<PyDict>) -> Self {
        Self { module, given }
    }

    fn __getattribute__(&self, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        let py = name.py();
        let value = self.module.bind(py).getattr(name)?;
        if let Some(pair) = self.given.bind(py).get_item(name)? {
            let pair = pair.cast::<PyTuple>()?;
            if pair.get_borrowed_item(0)?.is(&value) {
                return Ok(pair.get_item(1)?.unbind());
            }
        }
        Ok(value.unbind())
    }

    fn __setattr__(&self, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.module.bind(name.py()).setattr(name, value)
    }

    fn __delattr__(&self, name: &Bound<'_, PyString>) -> PyResult<()> {
        self.module.bind(name.py()).delattr(name)
    }

    fn __dir__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.module.bind(py).dir()?.into_any().unbind())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.module.bind(py).repr()?.to_string())
    }
}
