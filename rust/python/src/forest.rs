//! What the tasks of all loops are doing, for people: the cancel trees, and where each task waits.
//!
//! Nothing is kept for this beside a list of the roots, so it costs a running program nothing. It may be
//! asked from anywhere where Python runs, another OS thread or a signal handler included: the trees have
//! a lock of their own, under which no Python code runs, and the interpreter's lock keeps the rest as it
//! is.

use std::sync::{Arc, Mutex, Weak};

use aevent_runtime::fork;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::cancel_scope::to_seconds;
use crate::children::{ChildrenRef, Shared};
use crate::portal::Portal;
use crate::stack::Object;
use crate::task::{ScopeRef, TaskRef, state};
use crate::thread::Task;

/// A tree: who has made its root, and when that is known to be another process's.
struct Root {
    children: Weak<Shared>,
    /// What `threading.get_ident` says in the OS thread whose loop it belongs to.
    thread: u64,
    generation: u32,
}

static ROOTS: Mutex<Vec<Root>> = Mutex::new(Vec::new());

/// New children whose scope is inside no other. In the OS thread of their loop.
pub fn plant(children: &ChildrenRef) {
    let Ok(mut roots) = ROOTS.lock() else {
        return;
    };
    if roots.len() == roots.capacity() {
        // Before it grows, which it does by doubling: so this costs nothing on average.
        roots.retain(|root| {
            root.generation == fork::generation() && root.children.strong_count() > 0
        });
    }
    roots.push(Root {
        children: Arc::downgrade(children),
        // SAFETY: takes nothing; attached, as whoever makes them is.
        thread: unsafe { ffi::PyThread_get_thread_ident() } as u64,
        generation: fork::generation(),
    });
}

/// A scope: the index of the one around it in the same list, whom it wakes, its deadline, whether it
/// shields, whether it was cancelled itself, and whether what is inside is cancelled.
type Entry = (Option<usize>, Option<Task>, f64, bool, bool, bool);

fn list(root: &ScopeRef) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut left = vec![(None, root.clone())];
    while let Some((around, scope)) = left.pop() {
        let index = entries.len();
        entries.push((
            around,
            scope.task().map(|task| Task { task }),
            to_seconds(scope.deadline()),
            scope.shield(),
            scope.cancel_called(),
            scope.is_cancelled(),
        ));
        // Last in, first out: those that were entered first come first.
        left.extend(
            scope
                .children()
                .into_iter()
                .rev()
                .map(|scope| (Some(index), scope)),
        );
    }
    entries
}

/// See `_core.pyi`.
#[pyfunction]
pub fn forest() -> Vec<(u64, Vec<Entry>)> {
    let Ok(roots) = ROOTS.lock() else {
        return Vec::new();
    };
    let living: Vec<(u64, ChildrenRef)> = roots
        .iter()
        .filter(|root| root.generation == fork::generation())
        .filter_map(|root| Some((root.thread, root.children.upgrade()?)))
        .collect();
    drop(roots);
    living
        .into_iter()
        .map(|(thread, children)| (thread, list(&children.scope())))
        .collect()
}

/// See `_core.pyi`.
#[pyfunction]
pub fn suspended_frame(py: Python<'_>, task: &Task) -> PyResult<Option<Py<PyAny>>> {
    let frozen: Object = state(&task.task).frozen;
    if frozen.is_null() {
        return Ok(None);
    }
    // SAFETY: a frozen task owns its greenlet.
    let greenlet = unsafe { Bound::from_borrowed_ptr(py, frozen) };
    // Public, and what makes the frames below it reachable on Python 3.12 and later.
    let frame = greenlet.getattr("gr_frame")?;
    Ok((!frame.is_none()).then(|| frame.unbind()))
}

/// See `_core.pyi`.
#[pyfunction]
pub fn task_of_portal(portal: &Portal) -> Task {
    Task {
        task: portal.task().clone(),
    }
}

/// What a task is doing at the moment.
pub fn doing(task: &TaskRef) -> &'static str {
    if task.is_done() {
        "ended"
    } else if task.is_parked() {
        "parked"
    } else if task.is_queued() {
        "ready"
    } else {
        "running"
    }
}
