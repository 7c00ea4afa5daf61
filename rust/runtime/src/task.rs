//! A task: something that parks and is unparked, whatever it is made of.
//!
//! Parking follows `std::thread::park`: an unpark that comes first is kept, at most one is kept, and
//! a park may return for no reason. Whoever waits therefore asks for its condition in a loop, after
//! having told the one who will fulfil it whom to wake.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::fork;
use crate::scheduler::Scheduler;
use sync::{AtomicU8, AtomicU32, Ordering};

/// What the model checker replaces.
mod sync {
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering};
    #[cfg(not(loom))]
    pub use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
}

/// Running, and nobody has unparked it since its last park. Or in the run queue, if it has gone there
/// by itself and without [`Task::begin_yield`]: an unpark then becomes `NOTIFIED`, and nobody queues
/// it again.
const RUNNING: u8 = 0;
/// Running, and its next park returns at once.
const NOTIFIED: u8 = 1;
/// Parked: whoever unparks it puts it into the run queue.
const PARKED: u8 = 2;
/// In the run queue or in the inbox. Further unparks change nothing.
const QUEUED: u8 = 3;
/// Finished. Unparks change nothing, and it is never queued again.
const DONE: u8 = 4;

/// A task of the scheduler it was made for; `X` is what the layer above keeps with it.
///
/// Unparking is thread-safe; everything else is for the scheduler's own thread.
///
/// In the order of its fields: what is asked at each switch lies together, the beginning of `payload`
/// included.
#[repr(C)]
pub struct Task<X: Send + Sync + 'static> {
    state: AtomicU8,
    /// The process it lives in; see [`fork`]. In a child, unparking a task of the parent's does
    /// nothing, whoever still knows it.
    generation: AtomicU32,
    scheduler: Arc<Scheduler<X>>,
    /// The layer above's part.
    pub payload: X,
}

impl<X: Send + Sync + 'static> Task<X> {
    /// A task that counts as running until it parks.
    pub fn new(scheduler: Arc<Scheduler<X>>, payload: X) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(RUNNING),
            generation: AtomicU32::new(fork::generation()),
            scheduler,
            payload,
        })
    }

    /// A task that is to be queued as a fresh one.
    pub fn new_queued(scheduler: Arc<Scheduler<X>>, payload: X) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(QUEUED),
            generation: AtomicU32::new(fork::generation()),
            scheduler,
            payload,
        })
    }

    /// The scheduler it runs on.
    #[inline]
    pub fn scheduler(&self) -> &Arc<Scheduler<X>> {
        &self.scheduler
    }

    /// Lets a parked task go on, or its next park return at once. Thread-safe.
    #[inline]
    pub fn unpark(self: &Arc<Self>) {
        if self.claim() {
            self.scheduler.enqueue(self.clone());
        }
    }

    /// Like [`Task::unpark`], for a caller that has a reference to spare.
    #[inline]
    pub fn unpark_owned(self: Arc<Self>) {
        if self.claim() {
            let scheduler: *const Scheduler<X> = Arc::as_ptr(&self.scheduler);
            // SAFETY: the task keeps its scheduler alive, and the queue that takes the task is part
            // of that scheduler; nothing drops the task before `enqueue` has stored it.
            unsafe { &*scheduler }.enqueue(self);
        }
    }

    /// Like [`Task::unpark_owned`], because a deadline has come. Only for the scheduler itself.
    #[inline]
    pub(crate) fn unpark_due(self: Arc<Self>) {
        if self.claim() {
            let scheduler: *const Scheduler<X> = Arc::as_ptr(&self.scheduler);
            // SAFETY: as in `unpark_owned`.
            unsafe { &*scheduler }.enqueue_due(self);
        }
    }

    /// Like [`Task::unpark_owned`], for one who is to run before the others. Only for the scheduler.
    pub(crate) fn unpark_first(self: Arc<Self>) {
        if self.claim() {
            let scheduler: *const Scheduler<X> = Arc::as_ptr(&self.scheduler);
            // SAFETY: as in `unpark_owned`.
            unsafe { &*scheduler }.enqueue_first(self);
        }
    }

    /// Whether the caller has to queue the task.
    #[inline]
    fn claim(&self) -> bool {
        if self.generation.load(Ordering::Relaxed) != fork::generation() {
            return false;
        }
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            // Written also if it stays the same: the task must see what its unparker did before,
            // and it acquires that by reading what he wrote here last.
            let next = match state {
                RUNNING | NOTIFIED => NOTIFIED,
                PARKED | QUEUED => QUEUED,
                _ => return false,
            };
            match self
                .state
                .compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return state == PARKED,
                Err(now) => state = now,
            }
        }
    }

    /// Begins to park. False if an unpark was kept: it is used up, and the task goes on.
    #[inline]
    pub fn begin_park(&self) -> bool {
        if self
            .state
            .compare_exchange(RUNNING, PARKED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            return true;
        }
        debug_assert_eq!(self.state.load(Ordering::Relaxed), NOTIFIED);
        self.state.swap(RUNNING, Ordering::AcqRel);
        false
    }

    /// The running task goes to the end of the run queue; the caller puts it there.
    ///
    /// A kept unpark is used up: it can only say that a condition has changed, and the task asks for
    /// its conditions again before it parks. A task may also do without this and count as running while
    /// it is queued; then the unpark is kept for its next park.
    #[inline]
    pub fn begin_yield(&self) {
        self.state.swap(QUEUED, Ordering::AcqRel);
    }

    /// It was taken from the run queue and runs.
    #[inline]
    pub fn begin_run(&self) {
        // What is not `QUEUED` here never was: it has yielded and counted as running all the time.
        // Nobody but us ends `QUEUED`, so a look is enough to know.
        if self.state.load(Ordering::Relaxed) == QUEUED {
            self.state.swap(RUNNING, Ordering::AcqRel);
        }
    }

    /// It runs again although nobody unparked it: its host has resumed it. False if it is in the run
    /// queue, so that the entry there has to be passed over when it comes up.
    #[inline]
    pub fn begin_run_unasked(&self) -> bool {
        self.state.swap(RUNNING, Ordering::AcqRel) != QUEUED
    }

    /// It is in the run queue or was never anywhere else.
    #[inline]
    pub fn is_queued(&self) -> bool {
        self.state.load(Ordering::Acquire) == QUEUED
    }

    /// It is parked.
    pub fn is_parked(&self) -> bool {
        self.state.load(Ordering::Acquire) == PARKED
    }

    /// In the child of a fork: it is the task that forked, and lives on.
    pub fn survive_fork(&self) {
        self.generation.store(fork::generation(), Ordering::Relaxed);
    }

    /// It ends.
    #[inline]
    pub fn finish(&self) {
        self.state.store(DONE, Ordering::Release);
    }

    /// It has ended. Thread-safe.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// A waker that unparks the task.
    #[inline]
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    /// The same without a reference of its own, for as long as the task is borrowed.
    #[inline]
    pub fn waker_ref(self: &Arc<Self>) -> WakerRef<'_> {
        // SAFETY: a reference that does not count. It is never dropped, and lives no longer than the
        // one that is borrowed, which does.
        let task = unsafe { Arc::from_raw(Arc::as_ptr(self)) };
        WakerRef {
            waker: ManuallyDrop::new(Waker::from(task)),
            _task: PhantomData,
        }
    }
}

/// A waker that is borrowed from a task.
pub struct WakerRef<'a> {
    waker: ManuallyDrop<Waker>,
    _task: PhantomData<&'a ()>,
}

impl Deref for WakerRef<'_> {
    type Target = Waker;

    #[inline]
    fn deref(&self) -> &Waker {
        &self.waker
    }
}

impl<X: Send + Sync + 'static> Wake for Task<X> {
    fn wake(self: Arc<Self>) {
        self.unpark_owned();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.unpark();
    }
}
