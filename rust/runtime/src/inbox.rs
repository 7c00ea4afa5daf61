//! The one door through which other threads reach a scheduler.
//!
//! A letter is put into a concurrent queue and the scheduler's eventfd is written, unless a letter
//! that is still unread has done so already. The eventfd is registered edge-triggered and is never
//! read: each write is a new edge.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicI32;

use concurrent_queue::ConcurrentQueue;

use sync::{AtomicBool, Ordering};

/// What the model checker replaces.
mod sync {
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    #[cfg(not(loom))]
    pub use std::sync::atomic::{AtomicBool, Ordering};
}

/// Letters for the owner of a scheduler, from any thread.
pub struct Inbox<T> {
    letters: ConcurrentQueue<T>,
    /// Set by the first sender after a collection; the others need not ring.
    rung: AtomicBool,
    bell: AtomicI32,
    /// Stands for the eventfd in a model: the kernel orders a write before the wait that it ends,
    /// which loom cannot see.
    #[cfg(loom)]
    pub rings: loom::sync::atomic::AtomicUsize,
}

impl<T> Inbox<T> {
    /// An empty inbox with an eventfd of its own.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            letters: ConcurrentQueue::unbounded(),
            rung: AtomicBool::new(false),
            bell: AtomicI32::new(open_bell()?),
            #[cfg(loom)]
            rings: loom::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// In the child of a fork: a bell of its own, and no letters. Theirs are leaked.
    pub fn reset(&self) -> io::Result<()> {
        while let Some(letter) = self.collect() {
            std::mem::forget(letter);
        }
        self.answer();
        let former = self.bell.swap(open_bell()?, Ordering::AcqRel);
        // SAFETY: the child's copy of the descriptor is ours alone.
        unsafe { libc::close(former) };
        Ok(())
    }

    /// The descriptor that becomes readable when there is a letter.
    pub fn bell(&self) -> RawFd {
        self.bell.load(Ordering::Acquire)
    }

    /// Delivers `letter` and wakes the owner. Thread-safe; makes one system call at most.
    pub fn send(&self, letter: T) {
        // The queue is unbounded and never closed, so the only error cannot occur.
        let _ = self.letters.push(letter);
        self.ring();
    }

    /// Wakes the owner without a letter. Thread-safe and safe in a signal handler.
    pub fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        #[cfg(loom)]
        self.rings.fetch_add(1, Ordering::AcqRel);
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight readable bytes and the descriptor is open as long as `self`.
        // The only failure, a full counter, leaves the descriptor readable, which is what counts.
        unsafe { libc::write(self.bell(), one.as_ptr().cast(), one.len()) };
    }

    /// Whether there may be something to collect: one atomic load.
    #[inline]
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Takes one letter. Only for the owner, who calls [`Inbox::answer`] before the first.
    #[inline]
    pub fn collect(&self) -> Option<T> {
        self.letters.pop().ok()
    }

    /// Says that all letters are about to be collected: whoever sends from now on rings again.
    pub fn answer(&self) {
        // Not a store: what is read here is the mark of the last sender who found it set and did not
        // ring, and reading it is what makes his letter visible to `collect`.
        self.rung.swap(false, Ordering::SeqCst);
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours alone, and nobody can ring any more.
        unsafe { libc::close(self.bell()) };
    }
}

fn open_bell() -> io::Result<RawFd> {
    // SAFETY: `eventfd` takes no pointers; its result is checked before it is used.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}
