//! Permits to be counted: a semaphore, and a lock, which is one with one permit.

use std::fmt;
use std::sync::Arc;

use super::permits::{Acquire, Core, Word};

/// Counts permits, and hands each one directly to the party that has waited longest.
///
/// Without contention, acquiring and releasing are one compare-and-swap each. A permit that is
/// released while somebody waits never becomes free in between, so a newcomer cannot overtake.
/// Clones are the same semaphore.
#[derive(Clone)]
pub struct Semaphore {
    core: Arc<Core>,
}

impl Semaphore {
    /// A semaphore with that many free permits.
    pub fn new(permits: u32) -> Self {
        Semaphore {
            core: Core::new(permits),
        }
    }

    /// Takes a permit if one is free, which implies that nobody waits for it.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        self.core.try_acquire()
    }

    /// Takes a permit as soon as there is one. The place in the queue is taken by the first
    /// [`Acquire::poll`].
    #[inline]
    pub fn acquire(&self) -> Acquire {
        Acquire::new(Arc::clone(&self.core))
    }

    /// The same for somebody who keeps the semaphore alive in any case.
    #[inline]
    pub fn acquire_ref(&self) -> Acquire<&Core> {
        Acquire::new(&self.core)
    }

    /// [`try_acquire`](Self::try_acquire) for somebody who holds a lock of his own, as does everybody else
    /// while he uses this semaphore: without an atomic exchange.
    #[inline]
    pub fn try_acquire_alone(&self) -> bool {
        self.core.try_acquire_alone()
    }

    /// [`release`](Self::release) of one permit, likewise.
    #[inline]
    pub fn release_alone(&self) {
        if !self.core.release_alone() {
            self.release(1);
        }
    }

    /// Gives back `count` permits: one each to those who have waited longest, the rest become free.
    ///
    /// # Panics
    ///
    /// When more than `u32::MAX` permits would be free.
    #[inline]
    pub fn release(&self, count: u32) {
        assert!(
            self.core.release(count, u32::MAX),
            "a semaphore holds at most 2^32 - 1 permits"
        );
    }

    /// Like [`release`](Self::release), but does nothing and says `false` if more than `limit`
    /// permits would then be free. This is what a bounded semaphore needs, in one step.
    #[inline]
    pub fn try_release(&self, count: u32, limit: u32) -> bool {
        self.core.release(count, limit)
    }

    /// How many permits are free.
    #[inline]
    pub fn permits(&self) -> u32 {
        self.core.word().permits
    }

    /// How many wait and have not been handed a permit.
    #[inline]
    pub fn waiters(&self) -> u32 {
        self.core.word().waiters
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Word { permits, waiters } = self.core.word();
        f.debug_struct("Semaphore")
            .field("permits", &permits)
            .field("waiters", &waiters)
            .finish()
    }
}

/// A semaphore with one permit, under the names one expects.
///
/// It knows no owner: whoever likes may unlock it, as with Python's `threading.Lock`. Clones are
/// the same lock.
#[derive(Clone)]
pub struct Lock {
    core: Arc<Core>,
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl Lock {
    /// An unlocked lock.
    pub fn new() -> Self {
        Lock { core: Core::new(1) }
    }

    /// In the child of a fork: unlocked, whoever held it in the parent.
    pub fn reset(&self) {
        self.core.reset(1);
    }

    /// Locks if it is unlocked, which implies that nobody waits for it.
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.core.try_acquire()
    }

    /// Locks as soon as it can. The place in the queue is taken by the first [`Acquire::poll`].
    #[inline]
    pub fn lock(&self) -> Acquire {
        Acquire::new(Arc::clone(&self.core))
    }

    /// The same for somebody who keeps the lock alive in any case.
    #[inline]
    pub fn lock_ref(&self) -> Acquire<&Core> {
        Acquire::new(&self.core)
    }

    /// Unlocks, or hands the lock to the party that has waited longest. `false` if it was not
    /// locked.
    #[inline]
    pub fn unlock(&self) -> bool {
        self.core.release(1, 1)
    }

    /// Whether it is locked.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.core.word().permits == 0
    }

    /// How many wait and have not been handed the lock.
    #[inline]
    pub fn waiters(&self) -> u32 {
        self.core.word().waiters
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.is_locked())
            .field("waiters", &self.waiters())
            .finish()
    }
}
