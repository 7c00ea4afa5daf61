//! How many green threads the program has started that have not ended: `_thread._count()`.
//!
//! Only what was started as a thread counts. The tasks of groups are not threads to the program, and
//! the pool that waits for slow calls is nobody's business.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

use crate::task::{TaskRef, state};

/// Of all OS threads together, as `_thread._count()` is.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// `task` was started as a thread.
#[inline(always)]
pub fn begin(task: &TaskRef) {
    state(task).counted = true;
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// `task` has ended.
#[inline(always)]
pub fn end(task: &TaskRef) {
    if state(task).counted {
        state(task).counted = false;
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// In the child of a fork `survivor` is the only one.
pub fn after_fork_in_child(survivor: Option<&TaskRef>) {
    let left = survivor.is_some_and(|task| state(task).counted);
    COUNT.store(usize::from(left), Ordering::Relaxed);
}

/// How many there are.
#[pyfunction]
pub fn thread_count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
