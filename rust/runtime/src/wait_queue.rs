//! Hybrid waiting: green threads, async tasks and OS threads in one queue.
//!
//! All of them wait by leaving a [`Waker`](std::task::Waker), so one lock can be shared between a
//! patched program, its coroutines and the real threads of a library that nobody patched.
//! Everything here is thread-safe by itself, serves waiters in the order in which they came, and
//! loses neither a wake-up nor a permit when a waiter gives up.
//!
//! The queue proper is that of [`event_listener`]. Two of its properties are worth knowing:
//!
//! - A listener is an intrusive list node, hence address-sensitive. [`Event::listen`] puts it on
//!   the heap, which we rely on: what parks a green thread may copy its C stack away, and a node
//!   that lived there would be overwritten by the next thread's frames.
//! - It calls wakers, and drops one that another replaces, **while it holds its own list lock** (and
//!   we, for a semaphore, a second one). A waker must therefore be of the kind that pushes to a queue or unparks a thread. One that
//!   called back into the same object, or waited for a lock (an interpreter's, say) that somebody
//!   may hold while calling in here, could deadlock.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use event_listener::{Event, EventListener, IntoNotification, Listener};

use crate::fork;

use sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

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

/// The state of a semaphore in one word: free permits in the lower half, waiters in the upper.
///
/// - Free permits and no waiters: available.
/// - Neither: exhausted; a newcomer waits.
/// - Waiters and no free permits: contended. Only the holder of `Core::contended` changes the
///   word in this state, since both fast paths require that nobody waits.
/// - Free permits *and* waiters: never. It would mean that a permit lies about while somebody
///   waits for it, and a newcomer could overtake him.
#[derive(Clone, Copy)]
struct Word {
    permits: u32,
    waiters: u32,
}

impl Word {
    #[inline(always)]
    fn unpack(word: u64) -> Self {
        Word {
            permits: word as u32,
            waiters: (word >> 32) as u32,
        }
    }

    #[inline(always)]
    fn pack(self) -> u64 {
        debug_assert!(self.permits == 0 || self.waiters == 0);
        (self.waiters as u64) << 32 | self.permits as u64
    }
}

/// What [`Semaphore`] and [`Lock`] share.
struct Core {
    word: AtomicU64,
    /// Held while the queue and the waiter count change, so that they change as one: then the
    /// count is exactly the number of listeners which have not been notified, and a release which
    /// took somebody off the count is sure to find somebody to notify.
    ///
    /// Doing without it was considered: the list and the word would disagree for moments, a
    /// release could find a waiter counted but not (or no longer) listed, and whoever repairs that
    /// opens a gap for a newcomer to overtake. The uncontended paths do not come here.
    contended: Mutex<Listed>,
}

impl Core {
    fn new(permits: u32) -> Arc<Self> {
        Arc::new(Core {
            word: AtomicU64::new(permits as u64),
            contended: Mutex::new(Listed::new()),
        })
    }

    #[inline]
    fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Relaxed))
    }

    /// The list (whose notifications are permits handed over), without a parent's waiters.
    fn lock_contended(&self) -> MutexGuard<'_, Listed> {
        // Poisoning would mean that a waker panicked; the word and the list are in step even then.
        let mut listed = self
            .contended
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if listed.forget_of_parent() {
            // Relaxed: the child has one thread.
            let word = self.word();
            if word.waiters > 0 {
                self.word.store(0, Ordering::Relaxed);
            }
        }
        listed
    }

    /// Back to `permits` free ones and nobody waiting: for a lock that a thread of the parent held.
    fn reset(&self, permits: u32) {
        let mut listed = self.lock_contended();
        std::mem::forget(std::mem::replace(&mut *listed, Listed::new()));
        self.word.store(u64::from(permits), Ordering::Relaxed);
    }

    #[inline]
    fn try_acquire(&self) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(seen);
            // Free permits imply that nobody waits.
            if word.permits == 0 {
                return false;
            }
            match self.word.compare_exchange_weak(
                seen,
                seen - 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a permit or joins the queue.
    #[cold]
    fn acquire_or_listen(&self) -> Option<EventListener> {
        let contended = self.lock_contended();
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(seen);
            let next = if word.permits > 0 {
                seen - 1
            } else {
                let waiters = word
                    .waiters
                    .checked_add(1)
                    .expect("fewer than 2^32 parties wait for one semaphore");
                Word {
                    permits: 0,
                    waiters,
                }
                .pack()
            };
            match self
                .word
                .compare_exchange_weak(seen, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) if word.permits > 0 => return None,
                // A releaser may see the new count before the listener is listed; it then needs
                // the lock that we hold.
                Ok(_) => return Some(contended.event.listen()),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives back `count` permits unless more than `limit` would then be free.
    #[inline]
    fn release(&self, count: u32, limit: u32) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(seen);
            if word.waiters > 0 {
                return self.release_to_waiters(count, limit);
            }
            match word.permits.checked_add(count) {
                Some(permits) if permits <= limit => {}
                _ => return false,
            }
            match self.word.compare_exchange_weak(
                seen,
                seen + count as u64,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn release_to_waiters(&self, count: u32, limit: u32) -> bool {
        let contended = self.lock_contended();
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(seen);
            let handed_over = count.min(word.waiters);
            // The waiters may have gone meanwhile, and others released: so again the whole sum.
            let permits = match word.permits.checked_add(count - handed_over) {
                Some(permits) if permits <= limit => permits,
                _ => return false,
            };
            let next = Word {
                permits,
                waiters: word.waiters - handed_over,
            };
            match self.word.compare_exchange_weak(
                seen,
                next.pack(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if handed_over > 0 {
                        // No fence: whoever is in the list was put there under our lock.
                        let notified = contended
                            .event
                            .notify((handed_over as usize).additional().relaxed());
                        debug_assert_eq!(notified, handed_over as usize);
                    }
                    return true;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves the queue. `true` if a permit had been handed over before that.
    #[cold]
    fn leave(&self, place: Place) -> bool {
        let contended = self.lock_contended();
        // Discarded, because passing the notification on as event-listener would do finds nobody
        // when the queue is empty, and then the permit would be lost.
        let Some(handed_over) = place.leave() else {
            return false;
        };
        if !handed_over {
            // Nobody else changes a word that counts waiters while we hold the lock. Relaxed, since
            // any read-modify-write carries on what the releases before it published.
            self.word.fetch_sub(1 << 32, Ordering::Relaxed);
        }
        drop(contended);
        handed_over
    }
}

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
        Acquire::new(&self.core)
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

/// The way to a permit.
///
/// May be moved between polls, also to another thread. Dropping it gives back the permit if one
/// was handed over that no poll has reported; a permit that was reported belongs to the caller.
#[must_use = "an Acquire does nothing until it is polled"]
pub struct Acquire {
    core: Arc<Core>,
    state: AcquireState,
}

enum AcquireState {
    /// Not polled yet: no permit, not in the queue.
    New,
    /// In the queue, counted as a waiter unless notified. Notified means that a permit is ours.
    Waiting(Place),
    /// The permit was reported and is the caller's business.
    Acquired,
}

impl Acquire {
    #[inline]
    fn new(core: &Arc<Core>) -> Self {
        Acquire {
            core: Arc::clone(core),
            state: AcquireState::New,
        }
    }

    /// Asks for the permit. `Ready` means that the caller has it now; if `Pending`, `cx` is woken
    /// when it was handed over.
    ///
    /// After the first `Ready` it stays ready, for the same one permit.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let AcquireState::New = self.state {
            if self.core.try_acquire() {
                self.state = AcquireState::Acquired;
                return Poll::Ready(());
            }
            self.state = match self.core.acquire_or_listen() {
                None => AcquireState::Acquired,
                Some(listener) => AcquireState::Waiting(Place::new(listener)),
            };
        }
        if let AcquireState::Waiting(listener) = &mut self.state {
            if listener.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.state = AcquireState::Acquired;
        }
        Poll::Ready(())
    }

    /// Gives up. `true` if the caller owns a permit all the same: one that was handed over in the
    /// meantime, or that an earlier poll reported. He must use it or release it.
    pub fn cancel(mut self) -> bool {
        match std::mem::replace(&mut self.state, AcquireState::New) {
            AcquireState::New => false,
            AcquireState::Waiting(listener) => self.core.leave(listener),
            AcquireState::Acquired => true,
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let AcquireState::Waiting(listener) =
            std::mem::replace(&mut self.state, AcquireState::New)
            && self.core.leave(listener)
        {
            // It was not free a moment ago, so no limit can be exceeded now that was kept before.
            self.core.release(1, u32::MAX);
        }
    }
}

impl Future for Acquire {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Acquire::poll(&mut self, cx)
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            AcquireState::New => "Acquire(new)",
            AcquireState::Waiting(_) => "Acquire(waiting)",
            AcquireState::Acquired => "Acquire(acquired)",
        })
    }
}
