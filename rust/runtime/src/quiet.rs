//! Who waits until nobody else has anything to do: tasks of tests, and a clock that then jumps.
//!
//! *Quiet* is when no task is ready and, for as long as it takes the one who asks to believe it (the
//! *cushion*, in real nanoseconds), nothing has happened that made one ready.

use std::task::Waker;

/// Names one wait for quiet, also after it is over.
pub type QuietKey = u64;

struct Waiter {
    key: QuietKey,
    cushion: u64,
    waker: Waker,
}

/// What is to be done once it has been quiet.
#[derive(Default)]
pub struct Quiet {
    /// In the order in which they came.
    waiters: Vec<Waiter>,
    next_key: QuietKey,
    /// The cushion after which the clock jumps to the next deadline.
    autojump: Option<u64>,
    /// How many tasks wait for work that is done in this process, but not by the scheduler: they keep
    /// the clock from jumping, and time passes as it does in reality.
    at_work: usize,
}

impl Quiet {
    /// Nobody waits, and no clock jumps.
    pub const fn new() -> Self {
        Quiet {
            waiters: Vec::new(),
            next_key: 0,
            autojump: None,
            at_work: 0,
        }
    }

    /// `waker` is to be woken when it has been quiet for `cushion`.
    pub fn add(&mut self, cushion: u64, waker: Waker) -> QuietKey {
        let key = self.next_key;
        self.next_key += 1;
        self.waiters.push(Waiter {
            key,
            cushion,
            waker,
        });
        key
    }

    /// Whether that wait goes on. If it does, `waker` is the one to wake from now on, and the former
    /// one is given back to be dropped.
    pub fn renew(&mut self, key: QuietKey, waker: &Waker) -> Option<Waker> {
        let waiter = self.waiters.iter_mut().find(|waiter| waiter.key == key)?;
        Some(std::mem::replace(&mut waiter.waker, waker.clone()))
    }

    /// Gives a wait up; nothing happens if it is over.
    pub fn forget(&mut self, key: QuietKey) -> Option<Waker> {
        let position = self.waiters.iter().position(|waiter| waiter.key == key)?;
        Some(self.waiters.remove(position).waker)
    }

    /// The cushion after which the clock jumps, `None` for never.
    pub fn set_autojump(&mut self, cushion: Option<u64>) {
        self.autojump = cushion;
    }

    /// One more, or one less, waits for work that is done elsewhere.
    pub fn count_work(&mut self, more: bool) {
        self.at_work = if more {
            self.at_work + 1
        } else {
            self.at_work.saturating_sub(1)
        };
    }

    /// Whether anybody waits for work that is done elsewhere.
    pub fn is_at_work(&self) -> bool {
        self.at_work > 0
    }

    fn least_cushion(&self) -> Option<u64> {
        self.waiters.iter().map(|waiter| waiter.cushion).min()
    }

    /// Whether anybody cares.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        !self.waiters.is_empty() || self.autojump.is_some()
    }

    /// Whether work that is done elsewhere keeps the clock from jumping.
    pub fn is_jump_held(&self) -> bool {
        self.autojump.is_some() && self.at_work > 0
    }

    fn autojump(&self) -> Option<u64> {
        self.autojump.filter(|_| self.at_work == 0)
    }

    /// How long it has to be quiet for somebody to care; `None` if nobody does. `has_deadline`:
    /// whether the clock would have somewhere to jump to.
    pub fn patience(&self, has_deadline: bool) -> Option<u64> {
        let jump = self.autojump().filter(|_| has_deadline);
        match (self.least_cushion(), jump) {
            (Some(cushion), Some(jump)) => Some(cushion.min(jump)),
            (cushion, jump) => cushion.or(jump),
        }
    }

    /// It has been quiet for `lasted`: the wakers of those with the shortest cushion, if it was long
    /// enough for them; their waits are over. Nobody: then the clock may jump, if
    /// [`Quiet::may_jump`].
    ///
    /// As in trio, those who wait with the same cushion are told together. The others go on waiting,
    /// for these are ready now.
    pub fn take_patient(&mut self, lasted: u64) -> Vec<Waker> {
        let Some(cushion) = self.least_cushion().filter(|cushion| *cushion <= lasted) else {
            return Vec::new();
        };
        let (told, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.cushion == cushion);
        self.waiters = rest;
        told.into_iter().map(|waiter| waiter.waker).collect()
    }

    /// Whether the clock jumps after it has been quiet for `lasted`.
    pub fn may_jump(&self, lasted: u64) -> bool {
        self.autojump().is_some_and(|cushion| cushion <= lasted)
    }
}
