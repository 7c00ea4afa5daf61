//! Permits that are handed from one party to the next: what semaphores and locks have in common.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::line::{Line, Ticket};
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The state of a semaphore in one word: free permits in the lower half, waiters in the upper.
///
/// - Free permits and no waiters: available.
/// - Neither: exhausted; a newcomer waits.
/// - Waiters and no free permits: contended. Only the holder of `Core::contended` changes the
///   word in this state, since both fast paths require that nobody waits.
/// - Free permits *and* waiters: never. It would mean that a permit lies about while somebody
///   waits for it, and a newcomer could overtake him.
#[derive(Clone, Copy)]
pub(super) struct Word {
    pub(super) permits: u32,
    pub(super) waiters: u32,
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

/// What a semaphore and a lock share.
pub struct Core {
    word: AtomicU64,
    /// Up to which ticket permits have been handed over, so that a poll need not take the lock. Written
    /// with the lock held.
    served: AtomicU64,
    /// Held while the line and the waiter count change, so that they change as one: then the count is
    /// exactly the number of those who stand in the line, and a release which took somebody off the
    /// count is sure to find somebody to serve.
    ///
    /// Doing without it was considered: the line and the word would disagree for moments, a
    /// release could find a waiter counted but not (or no longer) in the line, and whoever repairs that
    /// opens a gap for a newcomer to overtake. The uncontended paths do not come here.
    contended: Mutex<Line>,
}

impl Core {
    pub(super) fn new(permits: u32) -> Arc<Self> {
        let line = Line::new();
        Arc::new(Core {
            word: AtomicU64::new(permits as u64),
            served: AtomicU64::new(line.served()),
            contended: Mutex::new(line),
        })
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Relaxed))
    }

    /// The line, without a parent's waiters.
    fn lock_contended(&self) -> MutexGuard<'_, Line> {
        // Poisoning would mean that a waker panicked; the word and the line are in step even then.
        let mut line = self
            .contended
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if line.is_of_parent() {
            line.forget();
            // Relaxed: the child has one thread.
            self.served.store(line.served(), Ordering::Relaxed);
            if self.word().waiters > 0 {
                self.word.store(0, Ordering::Relaxed);
            }
        }
        line
    }

    /// Back to `permits` free ones and nobody waiting: for a lock that a thread of the parent held.
    pub(super) fn reset(&self, permits: u32) {
        let mut line = self.lock_contended();
        line.forget();
        self.served.store(line.served(), Ordering::Release);
        self.word.store(u64::from(permits), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn try_acquire(&self) -> bool {
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

    /// Without an atomic exchange, for somebody who holds a lock of his own, as does everybody else while
    /// he uses this.
    #[inline]
    pub(super) fn try_acquire_alone(&self) -> bool {
        let seen = self.word.load(Ordering::Relaxed);
        if Word::unpack(seen).permits == 0 {
            return false;
        }
        self.word.store(seen - 1, Ordering::Relaxed);
        true
    }

    /// Gives back one permit, likewise. False if that takes more: somebody waits for it, or there are too
    /// many.
    #[inline]
    pub(super) fn release_alone(&self) -> bool {
        let seen = self.word.load(Ordering::Relaxed);
        let word = Word::unpack(seen);
        if word.waiters > 0 || word.permits == u32::MAX {
            return false;
        }
        self.word.store(seen + 1, Ordering::Relaxed);
        true
    }

    /// Takes a permit or joins the line.
    #[cold]
    fn acquire_or_join(&self, waker: &Waker) -> Option<Ticket> {
        let mut line = self.lock_contended();
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
                // A releaser may see the new count before we have joined; it then needs the lock
                // that we hold.
                Ok(_) => return Some(line.join(waker.clone())),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether whoever has the ticket was handed a permit; if not, `waker` is woken when he is.
    fn is_served(&self, ticket: Ticket, waker: &Waker) -> bool {
        // Acquire: what the one who handed it over did before is seen by whoever has it now.
        if ticket.is_served(self.served.load(Ordering::Acquire)) {
            return true;
        }
        let mut line = self.lock_contended();
        if ticket.is_served(line.served()) {
            return true;
        }
        let former = line.replace_waker(ticket, waker);
        drop(line);
        drop(former);
        false
    }

    /// Gives back `count` permits unless more than `limit` would then be free.
    #[inline]
    pub(super) fn release(&self, count: u32, limit: u32) -> bool {
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
        let mut line = self.lock_contended();
        let mut seen = self.word.load(Ordering::Relaxed);
        let handed_over = loop {
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
                Ok(_) => break handed_over,
                Err(now) => seen = now,
            }
        };
        if handed_over == 0 {
            return true;
        }
        let first = line.serve();
        let others: Vec<Waker> = (1..handed_over).map(|_| line.serve()).collect();
        // Release: see `is_served`. Who reads a later value has got it from somebody who held the lock
        // after us.
        self.served.store(line.served(), Ordering::Release);
        drop(line);
        first.wake();
        others.into_iter().for_each(Waker::wake);
        true
    }

    /// Leaves the line. `true` if a permit had been handed over before that.
    #[cold]
    fn leave(&self, ticket: Ticket) -> bool {
        let mut line = self.lock_contended();
        if ticket.is_served(line.served()) {
            return true;
        }
        if let Some(waker) = line.leave(ticket) {
            // Nobody else changes a word that counts waiters while we hold the lock. Relaxed, since
            // any read-modify-write carries on what the releases before it published.
            self.word.fetch_sub(1 << 32, Ordering::Relaxed);
            drop(line);
            drop(waker);
        }
        false
    }
}

/// The way to a permit.
///
/// May be moved between polls, also to another thread. Dropping it gives back the permit if one
/// was handed over that no poll has reported; a permit that was reported belongs to the caller.
#[must_use = "an Acquire does nothing until it is polled"]
pub struct Acquire<C: Deref<Target = Core> = Arc<Core>> {
    core: C,
    state: AcquireState,
}

enum AcquireState {
    /// Not polled yet: no permit, not in the line.
    New,
    /// In the line and counted as a waiter, or served: then a permit is ours.
    Waiting(Ticket),
    /// The permit was reported and is the caller's business.
    Acquired,
}

impl<C: Deref<Target = Core>> Acquire<C> {
    #[inline]
    pub(super) fn new(core: C) -> Self {
        Acquire {
            core,
            state: AcquireState::New,
        }
    }

    /// Asks for the permit. `Ready` means that the caller has it now; if `Pending`, `cx` is woken
    /// when it was handed over.
    ///
    /// After the first `Ready` it stays ready, for the same one permit.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.state {
            AcquireState::New => {
                if !self.core.try_acquire()
                    && let Some(ticket) = self.core.acquire_or_join(cx.waker())
                {
                    self.state = AcquireState::Waiting(ticket);
                    return Poll::Pending;
                }
                self.state = AcquireState::Acquired;
            }
            AcquireState::Waiting(ticket) => {
                if !self.core.is_served(ticket, cx.waker()) {
                    return Poll::Pending;
                }
                self.state = AcquireState::Acquired;
            }
            AcquireState::Acquired => {}
        }
        Poll::Ready(())
    }

    /// Gives up. `true` if the caller owns a permit all the same: one that was handed over in the
    /// meantime, or that an earlier poll reported. He must use it or release it.
    pub fn cancel(mut self) -> bool {
        match std::mem::replace(&mut self.state, AcquireState::New) {
            AcquireState::New => false,
            AcquireState::Waiting(ticket) => self.core.leave(ticket),
            AcquireState::Acquired => true,
        }
    }
}

impl<C: Deref<Target = Core>> Drop for Acquire<C> {
    fn drop(&mut self) {
        if let AcquireState::Waiting(ticket) = std::mem::replace(&mut self.state, AcquireState::New)
            && self.core.leave(ticket)
        {
            // It was not free a moment ago, so no limit can be exceeded now that was kept before.
            self.core.release(1, u32::MAX);
        }
    }
}

impl<C: Deref<Target = Core> + Unpin> Future for Acquire<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Acquire::poll(&mut self, cx)
    }
}

impl<C: Deref<Target = Core>> fmt::Debug for Acquire<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            AcquireState::New => "Acquire(new)",
            AcquireState::Waiting(_) => "Acquire(waiting)",
            AcquireState::Acquired => "Acquire(acquired)",
        })
    }
}
