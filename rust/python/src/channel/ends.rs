//! The two ends of a memory channel, as Python sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aevent_runtime::clock::NEVER;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyType};

use super::{Channel, ChannelWait, Receiving, Refused, Sending, error};
use crate::awaitable;
use crate::errors;
use crate::wait::{self, Pollable, Wait};

/// What a channel's statistics are made of: see `_core.pyi`.
type Numbers<'py> = (usize, Bound<'py, PyAny>, usize, usize, usize, usize);

/// What an end of either kind has.
struct End {
    channel: Arc<Channel>,
    number: usize,
    closed: Arc<AtomicBool>,
}

impl End {
    fn new(channel: Arc<Channel>) -> Self {
        let number = channel.number();
        Self {
            channel,
            number,
            closed: Arc::new(AtomicBool::new(false)),
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// An error if it is closed; `others_send` says which end it is.
    fn check(&self, others_send: bool) -> PyResult<()> {
        if self.is_closed() {
            return Err(error(&Refused::Closed, others_send));
        }
        Ok(())
    }

    /// The test for a wait, which may outlive us.
    fn asks_whether_closed(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        let closed = self.closed.clone();
        Box::new(move || closed.load(Ordering::Relaxed))
    }

    /// True the first time.
    fn begin_close(&self) -> bool {
        !self.closed.swap(true, Ordering::Relaxed)
    }

    fn numbers<'py>(&self, py: Python<'py>) -> PyResult<Numbers<'py>> {
        let inner = self.channel.inner();
        let capacity = inner.capacity;
        let numbers = (
            inner.buffer.len(),
            inner.open_senders,
            inner.open_receivers,
            inner.senders.len(),
            inner.receivers.len(),
        );
        let capacity = if capacity == usize::MAX {
            f64::INFINITY.into_pyobject(py)?.into_any()
        } else {
            capacity.into_pyobject(py)?.into_any()
        };
        Ok((
            numbers.0, capacity, numbers.1, numbers.2, numbers.3, numbers.4,
        ))
    }
}

fn alias<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both are valid objects; the result is a new reference or null.
    unsafe {
        Bound::from_owned_ptr_or_err(cls.py(), ffi::Py_GenericAlias(cls.as_ptr(), item.as_ptr()))
    }
}

/// See `_core.pyi`.
#[pyclass(module = "aevent", frozen, weakref)]
pub struct MemorySendChannel(End);

impl MemorySendChannel {
    fn over(channel: Arc<Channel>) -> Self {
        channel.inner().open_senders += 1;
        Self(End::new(channel))
    }

    fn wait(&self, value: Py<PyAny>) -> Box<ChannelWait<Sending>> {
        Box::new(ChannelWait::new(
            self.0.channel.clone(),
            self.0.number,
            self.0.asks_whether_closed(),
            Some(value),
        ))
    }

    fn end(&self) {
        if self.0.begin_close() {
            self.0.channel.close_sender(self.0.number);
        }
    }
}

impl Drop for MemorySendChannel {
    /// Nobody can use it any more, so it counts as closed.
    fn drop(&mut self) {
        self.end();
    }
}

#[pymethods]
impl MemorySendChannel {
    fn send(&self, py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        awaitable::give(py, Wait::checkpoint(self.wait(value)))
    }

    fn sync_send(&self, py: Python<'_>, value: Py<PyAny>) -> PyResult<()> {
        let mut wait = self.wait(value);
        wait::wait_until(py, NEVER, false, |cx| wait.poll(cx))?;
        wait.result(py).map(|_| ())
    }

    fn send_nowait(&self, value: Py<PyAny>) -> PyResult<()> {
        self.0.check(false)?;
        let result = self.0.channel.send(value);
        result.map_err(|(refused, _value)| error(&refused, false))
    }

    fn clone(&self) -> PyResult<Self> {
        self.0.check(false)?;
        Ok(Self::over(self.0.channel.clone()))
    }

    fn close(&self) {
        self.end();
    }

    fn aclose(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.end();
        awaitable::give(py, Wait::checkpoint_only())
    }

    fn _numbers<'py>(&self, py: Python<'py>) -> PyResult<Numbers<'py>> {
        self.0.numbers(py)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.end();
    }

    fn __aenter__(slf: Bound<'_, Self>) -> Wait {
        Wait::over_with(slf.into_any().unbind())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.aclose(py)
    }

    fn __repr__(&self) -> String {
        let state = if self.0.is_closed() { "closed" } else { "open" };
        format!("<aevent.MemorySendChannel, {state}>")
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        alias(cls, item)
    }
}

/// See `_core.pyi`.
#[pyclass(module = "aevent", frozen, weakref)]
pub struct MemoryReceiveChannel(End);

impl MemoryReceiveChannel {
    fn over(channel: Arc<Channel>) -> Self {
        channel.inner().open_receivers += 1;
        Self(End::new(channel))
    }

    fn wait(&self) -> Box<ChannelWait<Receiving>> {
        Box::new(ChannelWait::new(
            self.0.channel.clone(),
            self.0.number,
            self.0.asks_whether_closed(),
            None,
        ))
    }

    fn end(&self) {
        if self.0.begin_close() {
            self.0.channel.close_receiver(self.0.number);
        }
    }
}

impl Drop for MemoryReceiveChannel {
    /// As for the other end.
    fn drop(&mut self) {
        self.end();
    }
}

#[pymethods]
impl MemoryReceiveChannel {
    fn receive(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        awaitable::give(py, Wait::checkpoint(self.wait()))
    }

    fn sync_receive(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut wait = self.wait();
        wait::wait_until(py, NEVER, false, |cx| wait.poll(cx))?;
        wait.result(py)
    }

    fn receive_nowait(&self) -> PyResult<Py<PyAny>> {
        self.0.check(true)?;
        let result = self.0.channel.receive();
        result.map_err(|refused| error(&refused, true))
    }

    fn clone(&self) -> PyResult<Self> {
        self.0.check(true)?;
        Ok(Self::over(self.0.channel.clone()))
    }

    fn close(&self) {
        self.end();
    }

    fn aclose(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.end();
        awaitable::give(py, Wait::checkpoint_only())
    }

    fn _numbers<'py>(&self, py: Python<'py>) -> PyResult<Numbers<'py>> {
        self.0.numbers(py)
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut wait = self.wait();
        wait.iterates = true;
        awaitable::give(py, Wait::checkpoint(wait))
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.sync_receive(py) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_instance_of::<errors::EndOfStream>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.end();
    }

    fn __aenter__(slf: Bound<'_, Self>) -> Wait {
        Wait::over_with(slf.into_any().unbind())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.aclose(py)
    }

    fn __repr__(&self) -> String {
        let state = if self.0.is_closed() { "closed" } else { "open" };
        format!("<aevent.MemoryReceiveChannel, {state}>")
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.channel.traverse(&visit)
    }

    fn __clear__(&self) {
        self.0.channel.clear();
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn open_memory_channel(
    max_buffer_size: &Bound<'_, PyAny>,
) -> PyResult<(MemorySendChannel, MemoryReceiveChannel)> {
    let capacity = if max_buffer_size.is_instance_of::<PyInt>() {
        if max_buffer_size.lt(0)? {
            return Err(PyValueError::new_err("max_buffer_size must be >= 0"));
        }
        max_buffer_size.extract().unwrap_or(usize::MAX)
    } else if max_buffer_size
        .extract::<f64>()
        .is_ok_and(|size| size == f64::INFINITY)
    {
        usize::MAX
    } else {
        return Err(PyTypeError::new_err(
            "max_buffer_size must be an integer or math.inf",
        ));
    };
    let channel = Channel::new(capacity);
    Ok((
        MemorySendChannel::over(channel.clone()),
        MemoryReceiveChannel::over(channel),
    ))
}
