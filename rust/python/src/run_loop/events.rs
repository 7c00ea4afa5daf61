//! The looks at the kernel, and the wait for its news. This file alone releases the interpreter to wait for
//! events.

use aevent_runtime::clock;
use aevent_runtime::reactor;
use aevent_runtime::scheduler::Pace;
use pyo3::ffi;
use pyo3::prelude::*;

use super::Loop;
use crate::errors;
use crate::task::state;

impl Loop {
    #[inline(never)]
    pub(super) fn look(&self) {
        let result = self.scheduler.look();
        self.after_events(result);
    }

    /// Whoever waits for what the running task has just done in the kernel runs next.
    #[inline(never)]
    pub fn look_ahead(&self) {
        let result = self.scheduler.look_ahead();
        self.after_events(result);
    }

    /// The place where the native loop blocks, and releases the interpreter for it.
    #[inline(never)]
    pub(super) fn wait_for_events(&self) {
        let timeout = self.scheduler.time_to_wait();
        if timeout == Some(0) {
            return self.look();
        }
        if self.scheduler.is_quiet_awaited() {
            return self.wait_for_quiet(timeout);
        }
        let (fd, mut batch) = self.scheduler.begin_wait();
        // SAFETY: we are attached, or no Python code could have called us.
        let py = unsafe { Python::assume_attached() };
        self.scheduler.set_waits(true);
        let result = py.detach(|| reactor::wait(fd, &mut batch, timeout));
        let result = self.scheduler.take_in(batch, result);
        self.scheduler.set_waits(false);
        self.after_events(result);
    }

    /// The same while somebody waits until nothing happens any more.
    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_quiet(&self, timeout: Option<u64>) {
        let pace = self.scheduler.pace();
        let timeout = match pace {
            Pace::Real(left) => left,
            Pace::Own => timeout,
        };
        let shorter = match (timeout, self.scheduler.patience()) {
            (Some(timeout), Some(patience)) => Some(timeout.min(patience)),
            (timeout, patience) => timeout.or(patience),
        };
        let (own, began) = (clock::now(), clock::real());
        let (fd, mut batch) = self.scheduler.begin_wait();
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        self.scheduler.set_waits(true);
        let result = py.detach(|| reactor::wait(fd, &mut batch, shorter));
        let lasted = clock::real() - began;
        if matches!(pace, Pace::Real(_)) {
            clock::jump_to(own + lasted);
        }
        let nothing = matches!(result, Ok(0));
        let result = self.scheduler.take_in(batch, result);
        self.scheduler.set_waits(false);
        self.after_events(result);
        if nothing && !self.scheduler.has_work() && !self.stop.get() {
            self.scheduler.after_quiet(lasted);
        }
    }

    pub(super) fn after_events(&self, result: std::io::Result<()>) {
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        if let Err(error) = result {
            self.fail(errors::from_io(py, &error));
        }
        if self.is_main_thread {
            // Ours leave the program's handlers to the main task. Those that were set without us run
            // here with no task current, so whatever they call is the original.
            // SAFETY: attached.
            if unsafe { ffi::PyErr_CheckSignals() } != 0 {
                self.interrupt(PyErr::fetch(py));
            }
        }
    }

    /// A failure of the loop itself: `run` or `tick` raises it.
    pub(super) fn fail(&self, error: PyErr) {
        // SAFETY: one thread, nothing borrowed.
        unsafe { *self.failure.get() = Some(error) };
        self.stop.set(true);
    }

    /// Delivers the exception of a handler that was not given to `deliver_signal` to the main task,
    /// where it parks next or is parked.
    pub(super) fn interrupt(&self, error: PyErr) {
        match self.main() {
            Some(main) if !main.is_done() => {
                let former = state(&main).interrupt.replace(error);
                drop(former);
                main.unpark();
            }
            _ => self.fail(error),
        }
    }
}
