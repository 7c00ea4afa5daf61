//! Who runs next.
//!
//! Three queues, each first in first out: `due` holds what a deadline has woken, `ready` what was woken
//! otherwise or has yielded, `fresh` what never ran. A fourth, `first`, is nearly always empty: who
//! waits for what the running task has just done, and must not come after all the others.
//!
//! `ready` and `fresh` take turns: a round of `ready` (what was in it when the round began), then as
//! many fresh ones as fit into one time slice. So a burst of new threads that all compute does not
//! keep what was woken meanwhile waiting for longer than a slice and one thread's work, and a pair
//! of threads that yield to each other forever does not keep new ones from starting.
//!
//! `due` comes before both, but for one slice only; the next slice is theirs. So who asked to be woken
//! at a certain time does not wait for a whole round of those who have much to do, and sleepers that
//! all compute, however many, take half of the time at most.

use std::collections::VecDeque;

use crate::clock;

/// The run queue of one scheduler. See the module's description for its order.
pub struct RunQueue<T> {
    first: VecDeque<T>,
    /// How many of `first` have run since the others had a turn between two of them.
    in_a_row: u32,
    due: VecDeque<T>,
    ready: VecDeque<T>,
    fresh: VecDeque<T>,
    /// How many of `ready` are still to run before `fresh` has its slice.
    round: usize,
    /// A round begins with the next task, out of turn.
    round_is_due: bool,
    /// The coarse time at which the present slice of `fresh` began.
    slice: u64,
    /// Whose slice it was when somebody was due last.
    turn: Turn,
    /// Somebody else has run since one that was due did.
    others_ran: bool,
}

/// Who has the slice that began at this coarse time.
#[derive(Clone, Copy)]
enum Turn {
    Due(u64),
    Others(u64),
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            first: VecDeque::new(),
            in_a_row: 0,
            due: VecDeque::new(),
            ready: VecDeque::new(),
            fresh: VecDeque::new(),
            round: 0,
            round_is_due: false,
            slice: 0,
            turn: Turn::Others(0),
            others_ran: true,
        }
    }

    /// Appends a task that comes before all the others; but now and then one of these comes between.
    pub fn push_first(&mut self, task: T) {
        self.first.push_back(task);
    }

    /// Appends a task whose deadline has come.
    #[inline]
    pub fn push_due(&mut self, task: T) {
        self.due.push_back(task);
    }

    /// Appends a task that was woken or has yielded.
    #[inline]
    pub fn push_ready(&mut self, task: T) {
        self.ready.push_back(task);
    }

    /// Appends a task that has not run yet.
    #[inline]
    pub fn push_fresh(&mut self, task: T) {
        self.fresh.push_back(task);
    }

    /// Those who are ready come before the next fresh one.
    pub fn begin_round(&mut self) {
        self.round_is_due = true;
    }

    /// Takes the next task to run.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if !self.first.is_empty() {
            return self.pop_first();
        }
        self.pop_other()
    }

    #[cold]
    #[inline(never)]
    fn pop_first(&mut self) -> Option<T> {
        /// So that two who wake each other this way do not keep everybody else waiting.
        const IN_A_ROW: u32 = 64;
        if self.in_a_row < IN_A_ROW {
            self.in_a_row += 1;
            return self.first.pop_front();
        }
        self.in_a_row = 0;
        self.pop_other().or_else(|| self.first.pop_front())
    }

    #[inline(always)]
    fn pop_other(&mut self) -> Option<T> {
        if !self.due.is_empty() && self.is_turn_of_due() {
            self.others_ran = false;
            return self.due.pop_front();
        }
        self.others_ran = true;
        if self.fresh.is_empty() {
            // The next fresh one begins a slice of its own.
            self.slice = 0;
            return self.ready.pop_front();
        }
        self.pop_contested()
    }

    /// Whether those that are due go on; there are some.
    #[inline(never)]
    fn is_turn_of_due(&mut self) -> bool {
        if self.ready.is_empty() && self.fresh.is_empty() {
            return true;
        }
        let now = clock::coarse();
        let is_theirs = match self.turn {
            Turn::Due(began) => began == now || self.others_ran,
            Turn::Others(began) => began != now,
        };
        self.turn = if is_theirs {
            Turn::Due(now)
        } else {
            Turn::Others(now)
        };
        is_theirs
    }

    fn pop_contested(&mut self) -> Option<T> {
        if std::mem::take(&mut self.round_is_due) {
            self.round = self.ready.len();
        }
        if self.round > 0 {
            if let Some(task) = self.ready.pop_front() {
                self.round -= 1;
                if self.round == 0 {
                    self.slice = 0;
                }
                return Some(task);
            }
            self.round = 0;
            self.slice = 0;
        }
        let now = clock::coarse();
        if self.slice == 0 {
            self.slice = now;
        }
        if self.slice == now || self.ready.is_empty() {
            return self.fresh.pop_front();
        }
        self.round = self.ready.len() - 1;
        if self.round == 0 {
            self.slice = 0;
        }
        self.ready.pop_front()
    }

    /// The task that is likely to run after `n` others. A guess: fresh ones may come between.
    #[inline]
    pub fn upcoming(&self, n: usize) -> Option<&T> {
        if self.due.is_empty() {
            self.ready.get(n)
        } else {
            self.due.get(n)
        }
    }

    /// How many tasks wait for their turn.
    pub fn len(&self) -> usize {
        self.first.len() + self.due.len() + self.ready.len() + self.fresh.len()
    }

    /// Whether nobody waits for a turn.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
            && self.fresh.is_empty()
            && self.due.is_empty()
            && self.first.is_empty()
    }
}
