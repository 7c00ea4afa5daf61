//! A scheduler's futures, and what they wait with: see [`crate::futures`].

use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::deadlines::Due;
use super::{Letter, Scheduler};
use crate::clock::{self, NEVER};
use crate::descriptor;
use crate::fork;
use crate::futures::{Futures, Handle};
use crate::reactor::{Interest, OnceKey};
use crate::timers::TimerKey;

/// Tells a scheduler that there are futures to poll.
struct FuturesWaker<X: Send + Sync + 'static> {
    /// Weak, for the scheduler has the futures, and they have this.
    scheduler: Weak<Scheduler<X>>,
    generation: u32,
}

impl<X: Send + Sync + 'static> Wake for FuturesWaker<X> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.generation == fork::generation()
            && let Some(scheduler) = self.scheduler.upgrade()
        {
            if scheduler.is_mine() {
                scheduler.note_futures();
            } else {
                scheduler.inbox.send(Letter::Futures);
            }
        }
    }
}

impl<X: Send + Sync + 'static> Scheduler<X> {
    #[inline]
    #[allow(clippy::mut_from_ref)]
    fn futures(&self) -> &mut Option<Futures> {
        debug_assert!(self.is_mine());
        // SAFETY: as for `queue`: nothing that is called with the reference polls or drops a future.
        unsafe { &mut *self.futures.get() }
    }

    /// Starts `future`, which is polled in this scheduler's looks from now on, whenever it has been woken.
    /// Owner only.
    pub fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Handle<T> {
        assert!(self.is_mine(), "a future is spawned by its own thread");
        let make = || {
            Futures::new(Waker::from(Arc::new(FuturesWaker {
                scheduler: Arc::downgrade(self),
                generation: fork::generation(),
            })))
        };
        let executor = self.futures().get_or_insert_with(make).executor();
        let task = executor.spawn(future);
        // An executor that is not asleep does not wake: it may be new.
        self.note_futures();
        Handle::new(task.fallible())
    }

    /// There are futures to poll: a look is due. Owner only.
    pub(super) fn note_futures(&self) {
        self.futures_woken.set(true);
        self.until_look.set(0);
        self.tell_host();
    }

    /// Polls the futures that have been woken, and drops those that were cancelled. Owner only; looks do it.
    #[inline]
    pub fn run_futures(&self) {
        if self.futures_woken.get() {
            self.run_woken_futures();
        }
    }

    #[cold]
    #[inline(never)]
    fn run_woken_futures(&self) {
        self.futures_woken.set(false);
        let Some(mut turn) = self.futures().as_mut().and_then(Futures::begin_turn) else {
            // From within that very poll, which goes on; or there are none in this process.
            return;
        };
        turn.poll();
        match self.futures() {
            Some(futures) if turn.is_ours() => futures.end_turn(turn),
            // Somebody's destructor has forked, and this is the child.
            _ => std::mem::forget(turn),
        }
    }

    /// In the child of a fork: the parent's are leaked.
    pub(super) fn abandon_futures(&self) {
        std::mem::forget(self.futures().take());
        self.futures_woken.set(false);
    }

    /// A future that is ready when `fd` is, or when it is closed by us (then with `EBADF`). To be polled
    /// by this scheduler's thread, by whomever there.
    ///
    /// It is a single wait: see [`Reactor::wait_once`](crate::reactor::Reactor::wait_once), also for its errors.
    pub fn ready(self: &Arc<Self>, fd: RawFd, interest: Interest) -> Ready<X> {
        Ready {
            scheduler: Arc::downgrade(self),
            process: fork::generation(),
            fd,
            interest,
            begun: None,
        }
    }

    /// A future that is ready at `deadline`, by the clock of this scheduler's thread, which polls it.
    pub fn until(self: &Arc<Self>, deadline: u64) -> Until<X> {
        Until {
            scheduler: Arc::downgrade(self),
            process: fork::generation(),
            deadline,
            timer: None,
        }
    }
}

/// The scheduler, if it is there, is of this process, and is the calling thread's.
fn mine<X: Send + Sync + 'static>(
    scheduler: &Weak<Scheduler<X>>,
    process: u32,
) -> Option<Arc<Scheduler<X>>> {
    let scheduler = scheduler.upgrade()?;
    (process == fork::generation() && scheduler.is_mine()).then_some(scheduler)
}

/// See [`Scheduler::ready`]. In the child of a fork, one of the parent's is never ready.
pub struct Ready<X: Send + Sync + 'static> {
    /// Weak, since the scheduler may own the future.
    scheduler: Weak<Scheduler<X>>,
    process: u32,
    fd: RawFd,
    interest: Interest,
    /// The registration, and which life of the number it is for.
    begun: Option<(OnceKey, u32)>,
}

impl<X: Send + Sync + 'static> Ready<X> {
    fn end(&mut self) {
        if let Some((key, _)) = self.begun.take()
            && let Some(scheduler) = mine(&self.scheduler, self.process)
        {
            scheduler.end_once(key);
        }
    }
}

impl<X: Send + Sync + 'static> Future for Ready<X> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(scheduler) = mine(&self.scheduler, self.process) else {
            return Poll::Pending;
        };
        let Some((key, generation)) = self.begun else {
            let generation = descriptor::generation(self.fd);
            let key = scheduler
                .reactor()
                .wake_once(self.fd, self.interest, cx.waker())?;
            self.begun = Some((key, generation));
            return Poll::Pending;
        };
        if !scheduler.has_fired(key) {
            let former = scheduler.reactor().renew_once(key, cx.waker());
            // Dropped when nothing is borrowed.
            drop(former);
            return Poll::Pending;
        }
        self.end();
        if descriptor::generation(self.fd) != generation {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EBADF)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<X: Send + Sync + 'static> Drop for Ready<X> {
    fn drop(&mut self) {
        self.end();
    }
}

/// See [`Scheduler::until`]. In the child of a fork, one of the parent's is never ready.
pub struct Until<X: Send + Sync + 'static> {
    scheduler: Weak<Scheduler<X>>,
    process: u32,
    deadline: u64,
    /// The timer, and whom it wakes.
    timer: Option<(TimerKey, Waker)>,
}

impl<X: Send + Sync + 'static> Until<X> {
    fn end(&mut self) {
        if let Some((key, _)) = self.timer.take()
            && let Some(scheduler) = mine(&self.scheduler, self.process)
        {
            scheduler.forget_deadline(key);
        }
    }
}

impl<X: Send + Sync + 'static> Future for Until<X> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(scheduler) = mine(&self.scheduler, self.process) else {
            return Poll::Pending;
        };
        if self.deadline == NEVER {
            return Poll::Pending;
        }
        if clock::now() >= self.deadline {
            self.end();
            return Poll::Ready(());
        }
        if !matches!(&self.timer, Some((_, waker)) if waker.will_wake(cx.waker())) {
            self.end();
            let key = scheduler.wake_at(self.deadline, cx.waker().clone());
            self.timer = Some((key, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl<X: Send + Sync + 'static> Drop for Until<X> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<X: Send + Sync + 'static> Scheduler<X> {
    fn wake_at(&self, deadline: u64, waker: Waker) -> TimerKey {
        self.arm_if_host_waits(deadline);
        self.timers().insert(deadline, Due::Wake(Box::new(waker)))
    }
}
