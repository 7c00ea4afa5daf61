//! How often this process is the child of a fork.
//!
//! Only the forking task lives on in the child, but what the others had joined is copied with them.
//! Whatever keeps lists of waiters remembers the generation in which they joined, and forgets those
//! of an earlier one where it would otherwise have to deal with them. To forget means to leak:
//! freeing would touch the stacks and wakers of tasks that are not there.

use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The present generation.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Declares that this process is a new child. Called once in it, by its only thread.
pub fn begin_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has [`begin_child`] called in every child, by `fork` itself: before any of the program's own
/// hooks, which may already use locks. Call it once.
pub fn watch() {
    extern "C" fn child() {
        begin_child();
    }
    // SAFETY: the handler adds to an atomic, which is allowed in the child of a threaded process.
    unsafe { libc::pthread_atfork(None, None, Some(child)) };
}
