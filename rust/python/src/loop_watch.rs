//! What a watchdog in another OS thread may ask of a loop.
//!
//! It looks at the loops without the interpreter: one that has it interrupts whoever computes, and a
//! loop would pay for being watched. Only for one that seems to be held up does it take it.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use aevent_runtime::clock;
use pyo3::prelude::*;

use crate::run_loop::{self, Loop};
use crate::task::SchedulerRef;
use crate::thread::Task;

/// There is something that a watchdog has to know of before it goes on looking.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// See `_core.pyi`.
#[pyclass(module = "aevent._core", frozen)]
pub struct LoopWatch {
    scheduler: SchedulerRef,
    /// Null once the watch is over.
    event_loop: AtomicPtr<Loop>,
    made: u64,
    /// A host drives it: it looks only when it is asked to, or has something to do for us.
    is_hosted: bool,
    /// The CPU time of its thread. `None` where there is no such clock.
    cpu_clock: Option<libc::clockid_t>,
    // The following are used by the watchdog alone.
    /// What that clock said at the latest look at the loop.
    used: AtomicU64,
    /// What it said when the host was found waiting: as long as it says so the host still does.
    used_at_rest: AtomicU64,
    /// When the host was asked to look, or 0, and when it had done so last.
    asked: AtomicU64,
    looked_when_asked: AtomicU64,
}

/// What a look at a loop says, without the interpreter.
enum Verdict {
    Fine,
    /// The host was asked just now.
    Asked,
    Suspicious,
}

#[pymethods]
impl LoopWatch {
    #[new]
    #[pyo3(signature = (*, is_hosted=false))]
    fn new(py: Python<'_>, is_hosted: bool) -> PyResult<Self> {
        let event_loop = run_loop::obtain(py)?;
        Ok(Self {
            scheduler: event_loop.scheduler.clone(),
            event_loop: AtomicPtr::new(std::ptr::from_ref(event_loop).cast_mut()),
            made: clock::coarse(),
            is_hosted,
            cpu_clock: clock::of_this_threads_work(),
            used: AtomicU64::new(0),
            used_at_rest: AtomicU64::new(u64::MAX),
            asked: AtomicU64::new(0),
            looked_when_asked: AtomicU64::new(0),
        })
    }

    fn held(&self) -> f64 {
        self.held_nanos() as f64 / 1e9
    }

    fn is_asked(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked != 0 && self.scheduler.looked() == self.looked_when_asked.load(Ordering::Relaxed)
    }

    fn ask(&self) {
        self.looked_when_asked
            .store(self.scheduler.looked(), Ordering::Relaxed);
        self.asked.store(clock::real(), Ordering::Relaxed);
        self.scheduler.notify();
    }

    fn unanswered(&self) -> f64 {
        if !self.is_asked() {
            return 0.0;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        clock::real().saturating_sub(asked) as f64 / 1e9
    }

    fn set_at_rest(&self) {
        // Without a clock this is what it does not say.
        let used = self.used_now().unwrap_or(u64::MAX);
        self.used_at_rest.store(used, Ordering::Relaxed);
    }

    fn running_task(&self) -> Option<Task> {
        let event_loop = self.event_loop.load(Ordering::Relaxed);
        // SAFETY: null, or the loop of the thread that made this, which says `end` before it ends.
        // The caller is attached, so that thread is not in the middle of changing who runs.
        let event_loop = unsafe { event_loop.as_ref() }?;
        event_loop.current_task().map(|task| Task { task })
    }

    fn end(&self) {
        self.event_loop.store(null_mut(), Ordering::Relaxed);
    }
}

impl LoopWatch {
    fn held_nanos(&self) -> u64 {
        if self.scheduler.waits() {
            return 0;
        }
        let since = self.scheduler.looked().max(self.made);
        clock::coarse().saturating_sub(since)
    }

    fn used_now(&self) -> Option<u64> {
        self.cpu_clock.and_then(clock::work)
    }

    /// A look every `interval` nanoseconds; needs no interpreter.
    fn look(&self, interval: u64) -> Verdict {
        if self.held_nanos() < interval / 2 {
            return Verdict::Fine;
        }
        if !self.is_hosted || self.is_asked() {
            return Verdict::Suspicious;
        }
        let Some(used) = self.used_now() else {
            return Verdict::Suspicious;
        };
        if used == self.used_at_rest.load(Ordering::Relaxed) {
            return Verdict::Fine;
        }
        let before = self.used.swap(used, Ordering::Relaxed);
        if used - before.min(used) < interval / 2 {
            // It may be waiting, and is not to be woken then. Where it is takes the interpreter.
            return Verdict::Suspicious;
        }
        self.ask();
        Verdict::Asked
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn wait_until_held_up(
    py: Python<'_>,
    watches: Vec<Py<LoopWatch>>,
    interval: f64,
    at_once: bool,
) -> f64 {
    let interval = Duration::from_secs_f64(interval);
    let (since, used) = py.detach(|| {
        let mut pause = interval;
        loop {
            std::thread::sleep(pause);
            pause = interval;
            let mut is_suspicious = CHANGED.swap(false, Ordering::Relaxed) || at_once;
            for watch in &watches {
                match watch.get().look(interval.as_nanos() as u64) {
                    Verdict::Fine => {}
                    // An answer takes less than an interval.
                    Verdict::Asked => pause = interval / 2,
                    Verdict::Suspicious => is_suspicious = true,
                }
            }
            if is_suspicious {
                return (clock::real(), clock::work_of_process());
            }
        }
    });
    // The interpreter was not given away meanwhile, by one who computed; else the machine was busy
    // with others.
    let late = (clock::real() - since).min(clock::work_of_process() - used);
    late as f64 / 1e9
}

/// See `_core.pyi`.
#[pyfunction]
pub fn watches_changed() {
    CHANGED.store(true, Ordering::Relaxed);
}
