//! Lets other OS threads have the interpreter while a host's loop is busy.
//!
//! A host asks the kernel for events once per turn, and releases the interpreter for that, even if it
//! does not wait. Each time that wakes the threads that want the interpreter, and the host has it
//! back before any of them is on its feet. Having been woken they wait anew, so that the 5 ms never
//! pass after which a thread would insist on having it. Plain asyncio and trio starve their worker
//! threads like that, for seconds when some hundred tasks do nothing but yield. Offloaded calls are
//! made in such threads, so a loop that worked through all of an interval leaves the interpreter alone
//! for as long as it takes to be on one's feet.

use std::cell::Cell;
use std::time::Duration;

use aevent_runtime::clock;
use pyo3::ffi;
use pyo3::prelude::*;

/// How long a busy loop keeps the interpreter, in nanoseconds: what CPython's own default is. Measured
/// with a clock that advances in steps of up to 4 ms.
const INTERVAL: u64 = 5_000_000;

/// How long it is left alone then. Being woken takes some 50 µs.
const PAUSE: Duration = Duration::from_micros(100);

/// Since when the loop may have kept the interpreter.
pub struct Sharing {
    /// By the coarse clock, to see cheaply that an interval is over.
    began: Cell<u64>,
    /// By the exact one.
    began_exactly: Cell<u64>,
    /// The CPU time that its thread had used.
    used: Cell<u64>,
}

impl Sharing {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            began: Cell::new(0),
            began_exactly: Cell::new(0),
            used: Cell::new(0),
        }
    }

    /// To be called in each turn, where nothing is borrowed: other threads may run Python code in it.
    #[inline]
    pub fn share(&self, py: Python<'_>) {
        let now = clock::coarse();
        if now.wrapping_sub(self.began.get()) >= INTERVAL {
            self.share_if_busy(py, now);
        }
    }

    #[cold]
    fn share_if_busy(&self, py: Python<'_>, now: u64) {
        let exactly = clock::real();
        let used = clock::work_of_thread();
        let passed = exactly - self.began_exactly.get();
        // Whoever waits for so much as a tenth of the time gives the others their chance.
        let was_busy = (used - self.used.get()) * 10 >= passed * 9;
        if was_busy && others_exist(py) {
            py.detach(|| std::thread::sleep(PAUSE));
        }
        self.began.set(now);
        self.began_exactly.set(exactly);
        self.used.set(used);
    }
}

/// Whether other OS threads are known to the interpreter: those that want it are.
fn others_exist(_py: Python<'_>) -> bool {
    // SAFETY: attached. A thread's state is taken off the list by who holds the interpreter, so those
    // that are found stay until this is over; new ones are put in front of the first.
    unsafe {
        let first = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
        !first.is_null() && !ffi::PyThreadState_Next(first).is_null()
    }
}
