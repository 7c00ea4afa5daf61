//! Hybrid waiting: green threads, async tasks and OS threads in one queue.
//!
//! All of them wait by leaving a [`Waker`](std::task::Waker), so one lock can be shared between a
//! patched program, its coroutines and the real threads of a library that nobody patched.
//! Everything here is thread-safe by itself, serves waiters in the order in which they came, and
//! loses neither a wake-up nor a permit when a waiter gives up.
//!
//! Semaphores and locks, where most waiting is, keep a line of their own (`line`). The queue of a
//! [`WaitQueue`] is that of [`event_listener`]. Two of its properties are worth knowing:
//!
//! - A listener is an intrusive list node, hence address-sensitive. [`Event::listen`] puts it on
//!   the heap, which we rely on: what parks a green thread may copy its C stack away, and a node
//!   that lived there would be overwritten by the next thread's frames.
//! - It calls wakers, and drops one that another replaces, **while it holds its own list lock**. A waker
//!   must therefore be of the kind that pushes to a queue or unparks a thread. One that called back into
//!   the same object, or waited for a lock (an interpreter's, say) that somebody may hold while calling
//!   in here, could deadlock.

mod line;
mod permits;
mod semaphore;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use event_listener::{Event, EventListener, IntoNotification, Listener};

use crate::fork;

pub use permits::{Acquire, Core};
pub use semaphore::{Lock, Semaphore};
use sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// The list of those who wait, as of a generation of the process.
struct Listed {
    event: Event,
    generation: u32,
}

impl Listed {
    fn new() -> Self {
        Listed {
            event: Event::new(),
            generation: fork::generation(),
        }
    }

    /// After a fork: forgets the parent's waiters. True if there may have been any.
    fn forget_of_parent(&mut self) -> bool {
        if self.generation == fork::generation() {
            return false;
        }
        std::mem::forget(std::mem::replace(self, Listed::new()));
        true
    }
}

/// A place in a list, which is void in the child of a fork: there it is neither counted nor left.
struct Place {
    listener: EventListener,
    generation: u32,
}

impl Place {
    fn new(listener: EventListener) -> Self {
        Place {
            listener,
            generation: fork::generation(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.listener).poll(cx)
    }

    /// Leaves the list. Whether it had been notified; `None` if the list was the parent's.
    fn leave(self) -> Option<bool> {
        if self.generation == fork::generation() {
            return Some(self.listener.discard());
        }
        std::mem::forget(self.listener);
        None
    }
}

/// What the model checker replaces.
mod sync {
    #[cfg(loom)]
    pub use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    };
    #[cfg(not(loom))]
    pub use std::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    };
}

/// A queue of parties that wait to be told.
///
/// It keeps no memory: notifying an empty queue does nothing. So wait like this, and the wake-up
/// cannot be lost: call [`listen`](Self::listen), look at the condition *after that*, and wait
/// only if it does not hold; who makes it hold does so first and notifies then. Both sides order
/// their memory accesses, so the condition may be a relaxed atomic.
pub struct WaitQueue {
    shared: Arc<Shared>,
}

/// The part of a [`WaitQueue`] that its waiters keep alive.
struct Shared {
    listed: Mutex<Listed>,
    /// How many listeners have not been notified. Counted here since the event's own count takes
    /// its lock and includes those that were notified but have not run yet.
    waiting: AtomicUsize,
}

impl Shared {
    /// The list, without a parent's waiters.
    fn lock_listed(&self) -> MutexGuard<'_, Listed> {
        // Poisoning would mean that a waker panicked; the list is whole even then.
        let mut listed = self
            .listed
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if listed.forget_of_parent() {
            self.waiting.store(0, Ordering::Relaxed);
        }
        listed
    }

    #[inline]
    fn notify(&self, limit: usize) -> usize {
        // Mostly nobody waits. That this is a read-modify-write is what makes it safe to believe:
        // a listener that joins later adds to the number that we read, and so acquires what our
        // caller did before he notified; the look at the condition that it owes will see it.
        if self.waiting.fetch_add(0, Ordering::AcqRel) == 0 {
            return 0;
        }
        self.notify_listed(limit)
    }

    #[cold]
    fn notify_listed(&self, limit: usize) -> usize {
        let listed = self.lock_listed();
        let notified = listed.event.notify(limit.additional());
        drop(listed);
        if notified > 0 {
            // Cannot underflow: `listen` counts a listener before it can be notified.
            self.waiting.fetch_sub(notified, Ordering::Relaxed);
        }
        notified
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> Self {
        WaitQueue {
            shared: Arc::new(Shared {
                listed: Mutex::new(Listed::new()),
                waiting: AtomicUsize::new(0),
            }),
        }
    }

    /// Joins the queue at its end, at once: from here on no notification is missed.
    pub fn listen(&self) -> Waiter {
        let listed = self.shared.lock_listed();
        // AcqRel: see `Shared::notify`.
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        let listener = listed.event.listen();
        drop(listed);
        Waiter {
            listener: Some(Place::new(listener)),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Wakes the first `limit` waiters that have not been notified yet, and says how many there
    /// were.
    #[inline]
    pub fn notify(&self, limit: usize) -> usize {
        self.shared.notify(limit)
    }

    /// Wakes every waiter that has not been notified yet, and says how many there were.
    #[inline]
    pub fn notify_all(&self) -> usize {
        self.shared.notify(usize::MAX)
    }

    /// How many wait and have not been notified. One atomic load; while other threads come and go
    /// it is only a snapshot, so decide nothing by it that a wake-up depends on.
    #[inline]
    pub fn len(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Whether nobody waits. See [`len`](Self::len) for what that is worth.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue")
            .field("waiting", &self.len())
            .finish()
    }
}

/// A place in a [`WaitQueue`].
///
/// May be moved, also between threads, and outlives the queue harmlessly. Dropping one that was
/// notified but not polled since passes the notification on to the next waiter, so that a task
/// which is cancelled at the wrong moment swallows none.
#[must_use = "dropping a waiter leaves the queue"]
pub struct Waiter {
    /// `None` once the notification was taken.
    listener: Option<Place>,
    shared: Arc<Shared>,
}

impl Waiter {
    /// Asks for the notification; if it has not come, `cx` is woken when it does.
    ///
    /// After the first `Ready` it stays ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(listener) = &mut self.listener else {
            return Poll::Ready(());
        };
        if listener.poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.listener = None;
        Poll::Ready(())
    }

    /// Leaves the queue. `true` if it had been notified in the meantime, or had been `Ready`: then
    /// the caller must act on the notification or pass it on.
    pub fn cancel(mut self) -> bool {
        self.leave().unwrap_or(true)
    }

    /// Leaves the queue and says whether a notification was taken along; `None` if it had left.
    fn leave(&mut self) -> Option<bool> {
        let Some(notified) = self.listener.take()?.leave() else {
            return Some(false);
        };
        if !notified {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Some(notified)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // event-listener would pass on an additional notification by itself, as another additional
        // one; but it would not tell us whether anybody got it, and `waiting` needs to know.
        if self.leave() == Some(true) {
            self.shared.notify(1);
        }
    }
}

impl Future for Waiter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Waiter::poll(&mut self, cx)
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("done", &self.listener.is_none())
            .finish()
    }
}
