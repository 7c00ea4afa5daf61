//! What a scheduler does when a deadline has come, and how a host's loop is woken for it.

use std::sync::Arc;
#[cfg(not(loom))]
use std::task::Waker;

use super::{Letter, Scheduler};
use crate::cancel_tree::Scope;
use crate::clock::{self, NEVER};
use crate::task::Task;
use crate::timers::TimerKey;

/// What happens when a deadline has come.
pub(super) enum Due<X: Send + Sync + 'static> {
    Unpark(Arc<Task<X>>),
    Cancel(Scope<Arc<Task<X>>>),
    /// A future waits. In a box, for the others are in one word.
    #[cfg(not(loom))]
    Wake(Box<Waker>),
}

impl<X: Send + Sync + 'static> Scheduler<X> {
    pub(super) fn fire_timers(&self) {
        if self.timers().is_empty() {
            return;
        }
        let now = clock::now();
        while let Some(due) = self.timers().pop_expired(now) {
            match due {
                Due::Unpark(task) => task.unpark_due(),
                // If not, its deadline was moved by another thread, which cannot take the timer back.
                Due::Cancel(scope) if scope.deadline() <= now && !scope.is_closed() => {
                    for task in scope.cancel() {
                        task.unpark_due();
                    }
                }
                Due::Cancel(_) => {}
                #[cfg(not(loom))]
                Due::Wake(waker) => waker.wake(),
            }
        }
    }

    /// Somebody has set the owner's own time forward, or changed its rate: deadlines may have come.
    pub fn clock_has_jumped(&self) {
        self.fire_timers();
        if self.host_has_the_thread.get() {
            self.arm_host_timer();
        }
    }

    /// Has `task` unparked at `deadline`. Owner only.
    #[inline]
    pub fn unpark_at(&self, deadline: u64, task: Arc<Task<X>>) -> TimerKey {
        self.arm_if_host_waits(deadline);
        self.timers().insert(deadline, Due::Unpark(task))
    }

    /// Has `scope` cancelled at `deadline`. Owner only.
    pub fn cancel_at(&self, deadline: u64, scope: Scope<Arc<Task<X>>>) -> TimerKey {
        self.arm_if_host_waits(deadline);
        self.timers().insert(deadline, Due::Cancel(scope))
    }

    /// Like [`Scheduler::cancel_at`], from another thread. The deadline is to be the scope's own, and
    /// the timer does nothing if that has changed when it is due.
    pub fn cancel_at_elsewhere(&self, deadline: u64, scope: Scope<Arc<Task<X>>>) {
        self.inbox.send(Letter::Deadline(deadline, scope));
    }

    /// A deadline that is set while the host has the thread: it would not know of it. One that has
    /// come, and that the host has not asked about yet, stays the next.
    #[inline]
    pub(super) fn arm_if_host_waits(&self, deadline: u64) {
        if self.host_has_the_thread.get() {
            let next = deadline.min(self.next_deadline());
            if next != NEVER && clock::real_deadline(next) == NEVER {
                // The thread's own time stands still. A host that can set it forward asks again.
                self.notify();
            } else {
                self.arm(next);
            }
        }
    }

    /// In real time: a kernel's timer knows no other.
    fn arm(&self, deadline: u64) {
        self.reactor()
            .arm(clock::real_deadline(deadline), clock::real());
    }

    /// Takes a deadline back; nothing happens if it has come already. Owner only.
    #[inline]
    pub fn forget_deadline(&self, key: TimerKey) {
        // Dropped here, when the timers are no longer borrowed: it may be the last reference.
        let due = self.timers().remove(key);
        drop(due);
    }

    /// The earliest deadline, [`NEVER`] if there is none.
    pub fn next_deadline(&self) -> u64 {
        self.timers().next_deadline().unwrap_or(NEVER)
    }

    /// How many deadlines are set.
    pub fn timers_len(&self) -> usize {
        self.timers().len()
    }

    /// Before a host waits for [`Scheduler::fd`]: has it become readable at the next deadline.
    pub fn arm_host_timer(&self) {
        let deadline = self.next_deadline();
        if deadline != NEVER {
            self.arm(deadline);
        }
    }
}
