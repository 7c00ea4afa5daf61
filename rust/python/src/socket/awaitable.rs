//! Calls of non-blocking sockets that native coroutines await.

use std::os::fd::RawFd;

use aevent_runtime::descriptor;
use aevent_runtime::reactor::Direction;
use pyo3::exceptions::{PyBlockingIOError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::object::Socket;
use crate::errors;
use crate::run_loop;
use crate::wait;

/// See `_core.pyi`.
#[pyclass(module = "aevent._core")]
pub struct SocketCall {
    /// The socket, the method and its arguments; `None` once the collector has taken them.
    call: Option<(Py<PyAny>, Py<PyAny>, Py<PyTuple>)>,
    direction: Direction,
    /// The descriptor that the task is registered for, and in which of its lives.
    waiting: Option<(RawFd, u32)>,
    begun: bool,
}

#[pymethods]
impl SocketCall {
    #[new]
    #[pyo3(signature = (sock, method, write, *args))]
    fn new(sock: Py<PyAny>, method: Py<PyAny>, write: bool, args: Py<PyTuple>) -> Self {
        Self {
            call: Some((sock, method, args)),
            direction: if write {
                Direction::Write
            } else {
                Direction::Read
            },
            waiting: None,
            begun: false,
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (Some(task), Some(event_loop)) = (run_loop::current(), run_loop::existing()) else {
            return Err(errors::no_task("a socket call"));
        };
        let scheduler = &event_loop.scheduler;
        // Taken out: the method may be anything, and nothing is borrowed while it runs.
        let (call, direction, waiting, begun) = {
            let mut this = slf.borrow_mut();
            (
                this.call.as_ref().map(|(sock, method, args)| {
                    (sock.clone_ref(py), method.clone_ref(py), args.clone_ref(py))
                }),
                this.direction,
                this.waiting.take(),
                std::mem::replace(&mut this.begun, true),
            )
        };
        let Some((sock, method, args)) = call else {
            return Err(errors::os_error(py, libc::EBADF));
        };
        let socket = Socket::of(sock.bind(py))?;
        if let Some((fd, generation)) = waiting {
            if descriptor::generation(fd) == generation {
                scheduler.forget_ready(fd, direction, &task);
            }
            wait::check(&task)?;
            if socket.fd() != fd {
                return Err(errors::os_error(py, libc::EBADF));
            }
        } else {
            wait::check(&task)?;
            if !begun && scheduler.is_look_due() {
                // A socket that is always ready must not keep the others from running.
                return Ok(pyo3::types::PyBool::new(py, true)
                    .to_owned()
                    .into_any()
                    .unbind());
            }
        }
        loop {
            let fd = socket.fd();
            if fd < 0 {
                return Err(errors::os_error(py, libc::EBADF));
            }
            if scheduler.may_try(fd, direction) {
                match method.bind(py).call1(args.bind(py)) {
                    Ok(value) => return Err(PyStopIteration::new_err((value.unbind(),))),
                    Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => {
                        scheduler.exhausted(fd, direction);
                    }
                    Err(error) => return Err(error),
                }
            }
            match scheduler.wait_ready(fd, direction, task.clone()) {
                Ok(true) => {
                    slf.borrow_mut().waiting = Some((fd, descriptor::generation(fd)));
                    return Ok(py.None());
                }
                Ok(false) => {}
                Err(error) => return Err(errors::from_io(py, &error)),
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some((sock, method, args)) = &self.call {
            visit.call(sock)?;
            visit.call(method)?;
            visit.call(args)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        self.call = None;
    }
}
