//! The scheduler of one OS thread: who is ready, what is waited for, and one look at the kernel.
//!
//! It does not know how a task is run (that is a matter of stacks, in the layer above); it answers
//! "who is next?" and "what has happened meanwhile?". Its parts are in cells that are opened for the
//! length of one method each and never while a task or a waker runs.

mod deadlines;
#[cfg(not(loom))]
mod futures;
mod readiness;

use std::cell::{Cell, UnsafeCell};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use crate::cancel_tree::Scope;
use crate::clock;
use crate::inbox::Inbox;
use crate::quiet::{Quiet, QuietKey};
use crate::reactor::{self, Batch, Reactor};
use crate::run_queue::RunQueue;
use crate::task::Task;
use crate::timers::Timers;
use deadlines::Due;

#[cfg(not(loom))]
pub use futures::{Ready, Until};

/// What another thread has for the scheduler.
enum Letter<X: Send + Sync + 'static> {
    Unparked(Arc<Task<X>>),
    /// A descriptor was closed elsewhere.
    Closing(RawFd),
    /// The deadline of a scope was set elsewhere.
    Deadline(u64, Scope<Arc<Task<X>>>),
    /// A future was woken elsewhere.
    #[cfg(not(loom))]
    Futures,
}

/// How time passes while nobody is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// As the thread's own time does, if it has one.
    Own,
    /// As in reality: the clock would jump, but for work that is under way elsewhere. With the
    /// nanoseconds that are left until the next deadline.
    Real(Option<u64>),
}

/// The address of this is what tells one OS thread from another: cheaper than a `ThreadId`.
#[inline]
fn this_thread() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token) as usize)
}

/// After so many tasks the kernel is asked for news, even if the coarse clock stood still.
const TASKS_PER_LOOK: u32 = 512;

/// After so many readings of the clock by short calls, at most 32 of them to each, another task runs.
const READS_PER_TURN: u32 = 12;

/// The scheduler of one OS thread.
///
/// Only [`Scheduler::enqueue`], [`Scheduler::notify`], [`Scheduler::looked`], [`Scheduler::closing_elsewhere`] and
/// [`Scheduler::cancel_at_elsewhere`] may be called from other threads.
pub struct Scheduler<X: Send + Sync + 'static> {
    owner: usize,
    inbox: Inbox<Letter<X>>,
    queue: UnsafeCell<RunQueue<Arc<Task<X>>>>,
    timers: UnsafeCell<Timers<Due<X>>>,
    reactor: UnsafeCell<Reactor<Arc<Task<X>>>>,
    quiet: UnsafeCell<Quiet>,
    /// Made with the first of them. Not in a model: the executor does not compile there, and all that
    /// it shares with other threads is a letter.
    #[cfg(not(loom))]
    futures: UnsafeCell<Option<crate::futures::Futures>>,
    /// Some of them are to be polled.
    futures_woken: Cell<bool>,
    /// The coarse time of the last look at the kernel. Stored by the owner; other threads may ask.
    looked: AtomicU64,
    /// How many tasks may still run before the next look.
    until_look: Cell<u32>,
    /// How many short calls the present slice may still have before the clock is read, and after how
    /// many it was read last.
    until_clock: Cell<u32>,
    calls_per_clock: Cell<u32>,
    /// How often the clock was read by short calls since one of them was told to let others run.
    clock_reads: Cell<u32>,
    /// The loop waits for events. Stored by the owner; other threads may ask.
    waits: AtomicBool,
    /// A host's loop has the thread, and does not know of what becomes ready unless it is told.
    host_has_the_thread: Cell<bool>,
}

// SAFETY: the cells are touched by the owner's thread alone; `assert_owner` checks it in debug
// builds, and what other threads may call touches only the inbox, which is thread-safe.
unsafe impl<X: Send + Sync + 'static> Send for Scheduler<X> {}
// SAFETY: as above.
unsafe impl<X: Send + Sync + 'static> Sync for Scheduler<X> {}

impl<X: Send + Sync + 'static> Scheduler<X> {
    /// A scheduler for the calling thread.
    pub fn new() -> io::Result<Arc<Self>> {
        let inbox = Inbox::new()?;
        let reactor = Reactor::new(inbox.bell())?;
        Ok(Arc::new(Self {
            owner: this_thread(),
            inbox,
            queue: UnsafeCell::new(RunQueue::new()),
            timers: UnsafeCell::new(Timers::new()),
            reactor: UnsafeCell::new(reactor),
            quiet: UnsafeCell::new(Quiet::new()),
            #[cfg(not(loom))]
            futures: UnsafeCell::new(None),
            futures_woken: Cell::new(false),
            looked: AtomicU64::new(clock::coarse()),
            until_look: Cell::new(TASKS_PER_LOOK),
            until_clock: Cell::new(1),
            calls_per_clock: Cell::new(1),
            clock_reads: Cell::new(0),
            waits: AtomicBool::new(false),
            host_has_the_thread: Cell::new(false),
        }))
    }

    /// In the child of a fork, before anything else is done with it: nobody is ready, nothing is
    /// waited for, and the descriptors are its own. What was there belongs to the parent's tasks and
    /// is leaked.
    pub fn reset_after_fork(&self) -> io::Result<()> {
        self.inbox.reset()?;
        std::mem::forget(std::mem::take(self.queue()));
        std::mem::forget(std::mem::take(self.timers()));
        std::mem::forget(std::mem::take(self.quiet()));
        #[cfg(not(loom))]
        self.abandon_futures();
        let reactor = Reactor::new(self.inbox.bell())?;
        std::mem::replace(self.reactor(), reactor).abandon();
        self.begin_slice();
        Ok(())
    }

    /// A time slice begins now.
    pub fn begin_slice(&self) {
        self.looked.store(clock::coarse(), Ordering::Relaxed);
        self.until_look.set(TASKS_PER_LOOK);
        self.until_clock.set(1);
        self.calls_per_clock.set(1);
    }

    /// When the present time slice began, by the coarse clock. May be called from any thread.
    #[inline]
    pub fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    /// The loop is about to wait for events, or has taken in what came.
    pub fn set_waits(&self, waits: bool) {
        // Whoever sees that it waits no more also sees that it has looked.
        self.waits.store(waits, Ordering::Release);
    }

    /// Whether the loop waits for events. May be called from any thread.
    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Whether the calling thread is the one the scheduler belongs to.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.owner == this_thread()
    }

    #[inline]
    #[allow(clippy::mut_from_ref)]
    fn queue(&self) -> &mut RunQueue<Arc<Task<X>>> {
        debug_assert!(self.is_mine());
        // SAFETY: only the owner's thread comes here, and every caller in this file drops the
        // reference before it calls anything but the queue's own methods.
        unsafe { &mut *self.queue.get() }
    }

    #[inline]
    #[allow(clippy::mut_from_ref)]
    fn timers(&self) -> &mut Timers<Due<X>> {
        debug_assert!(self.is_mine());
        // SAFETY: as for `queue`.
        unsafe { &mut *self.timers.get() }
    }

    #[inline]
    #[allow(clippy::mut_from_ref)]
    fn reactor(&self) -> &mut Reactor<Arc<Task<X>>> {
        debug_assert!(self.is_mine());
        // SAFETY: as for `queue`; the wakers given to it only touch the queue and the inbox.
        unsafe { &mut *self.reactor.get() }
    }

    #[inline]
    #[allow(clippy::mut_from_ref)]
    fn quiet(&self) -> &mut Quiet {
        debug_assert!(self.is_mine());
        // SAFETY: as for `queue`; what it gives back is dropped when it is no longer borrowed.
        unsafe { &mut *self.quiet.get() }
    }

    /// Puts a task that was unparked into the run queue, or into the inbox if the caller is another
    /// thread. The caller has claimed it by its state.
    #[inline]
    pub fn enqueue(&self, task: Arc<Task<X>>) {
        if self.is_mine() {
            self.queue().push_ready(task);
            self.tell_host();
        } else {
            self.inbox.send(Letter::Unparked(task));
        }
    }

    /// Puts a task into the run queue whose deadline has come. The caller has claimed it by its state.
    #[inline]
    pub(crate) fn enqueue_due(&self, task: Arc<Task<X>>) {
        if self.is_mine() {
            self.queue().push_due(task);
            self.tell_host();
        } else {
            // A task of another thread, in a scope that has its deadline here.
            self.inbox.send(Letter::Unparked(task));
        }
    }

    /// Puts a task into the run queue that runs before the others. As above; its own waiters only.
    pub(crate) fn enqueue_first(&self, task: Arc<Task<X>>) {
        self.queue().push_first(task);
        self.tell_host();
    }

    /// The running task goes to the end of the run queue. Owner only.
    #[inline]
    pub fn requeue(&self, task: Arc<Task<X>>) {
        self.queue().push_ready(task);
        self.tell_host();
    }

    /// Puts a new task into the run queue. Owner only.
    #[inline]
    pub fn enqueue_fresh(&self, task: Arc<Task<X>>) {
        self.queue().push_fresh(task);
        self.tell_host();
    }

    /// Wakes the scheduler from its wait. Thread-safe, and safe in a signal handler.
    pub fn notify(&self) {
        self.inbox.ring();
    }

    /// The descriptor that is readable while there is something to do. For hosts.
    pub fn fd(&self) -> RawFd {
        self.reactor().fd()
    }

    /// Takes the next task. The caller runs it.
    #[inline]
    pub fn next(&self) -> Option<Arc<Task<X>>> {
        self.queue().pop()
    }

    /// The task that is likely to run after `n` others: a guess, for who fetches from memory what it
    /// will need. It lives until the next one is taken or put in. Owner only.
    #[inline(always)]
    pub fn upcoming(&self, n: usize) -> Option<*const Task<X>> {
        self.queue().upcoming(n).map(Arc::as_ptr)
    }

    /// Whether a task is ready.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.queue().is_empty()
    }

    /// Whether there is anything to do without news from the kernel.
    pub fn has_work(&self) -> bool {
        self.has_ready() || self.futures_woken.get()
    }

    /// How many tasks are ready.
    pub fn ready_len(&self) -> usize {
        self.queue().len()
    }

    /// Whether the time slice is over, so that the kernel should be asked for news (and a host be
    /// given its turn) before another task runs. Costs a few nanoseconds.
    #[inline]
    pub fn is_look_due(&self) -> bool {
        let left = self.until_look.get();
        if left == 0 || self.inbox.is_rung() {
            return true;
        }
        self.until_look.set(left - 1);
        clock::coarse() != self.looked()
    }

    /// Like [`Scheduler::is_look_due`], for calls that take nanoseconds themselves: for them even the
    /// clock is too slow. It is read again after as many calls as have fitted into the slice so far, up
    /// to 32, so that calls of one length, whatever it is, overrun the slice by another one at most.
    ///
    /// After some hundred calls another task should run, too, without a look: somebody who puts into a
    /// queue for a whole slice fills it with more than the cache holds.
    #[inline]
    pub fn is_look_due_now_and_then(&self) -> bool {
        if self.inbox.is_rung() {
            return true;
        }
        let left = self.until_clock.get() - 1;
        self.until_clock.set(left);
        left == 0 && self.is_slice_over()
    }

    #[inline(never)]
    fn is_slice_over(&self) -> bool {
        const CALLS_AT_MOST: u32 = 32;
        let reads = self.clock_reads.get() + 1;
        self.clock_reads.set(reads % READS_PER_TURN);
        if reads == READS_PER_TURN || clock::coarse() != self.looked() {
            // Asked again by the next call, should nobody look.
            self.until_clock.set(1);
            self.calls_per_clock.set(1);
            return true;
        }
        let calls = (self.calls_per_clock.get() * 2).min(CALLS_AT_MOST);
        self.calls_per_clock.set(calls);
        self.until_clock.set(calls);
        false
    }

    /// Looks at the kernel, the timers and the inbox, without waiting, and polls the futures that were
    /// woken. No task is to be current.
    pub fn look(&self) -> io::Result<()> {
        let mut batch = self.reactor().take_batch();
        let fd = self.reactor().fd();
        let result = reactor::wait(fd, &mut batch, Some(0));
        self.take_in(batch, result)
    }

    /// Looks at the kernel for whoever is waiting already for what the running task has just done: they
    /// run before the others. If they are ready already they still run before those that have not
    /// begun. The time slice goes on; timers and the inbox wait for the next look.
    pub fn look_ahead(&self) -> io::Result<()> {
        let (fd, mut batch) = self.begin_wait();
        let result = reactor::wait(fd, &mut batch, Some(0));
        let count = *result.as_ref().unwrap_or(&0);
        self.reactor().dispatch(batch, count, Task::unpark_first);
        self.queue().begin_round();
        result.map(|_| ())
    }

    /// How long a wait may be: real nanoseconds until the next deadline, `None` without one, zero when
    /// something is ready.
    pub fn time_to_wait(&self) -> Option<u64> {
        if self.has_work() || self.inbox.is_rung() {
            return Some(0);
        }
        let deadline = self.timers().next_deadline()?;
        clock::in_real_time(deadline.saturating_sub(clock::now()))
    }

    /// The first half of a wait: what [`reactor::wait`] needs, which may then be called with
    /// everything else released.
    pub fn begin_wait(&self) -> (RawFd, Batch) {
        let reactor = self.reactor();
        (reactor.fd(), reactor.take_batch())
    }

    /// The second half of a wait: takes in what has happened, as a look does.
    pub fn take_in(&self, batch: Batch, result: io::Result<usize>) -> io::Result<()> {
        let count = *result.as_ref().unwrap_or(&0);
        self.reactor().dispatch(batch, count, Task::unpark_owned);
        self.collect_letters();
        self.fire_timers();
        #[cfg(not(loom))]
        self.run_futures();
        self.begin_slice();
        result.map(|_| ())
    }

    /// Has `waker` woken when it has been quiet for `cushion` nanoseconds. Owner only.
    pub fn wake_when_quiet(&self, cushion: u64, waker: Waker) -> QuietKey {
        self.quiet().add(cushion, waker)
    }

    /// Whether the wait goes on; if so, `waker` is to be woken from now on. Owner only.
    pub fn is_awaiting_quiet(&self, key: QuietKey, waker: &Waker) -> bool {
        // A waker is dropped when nothing is borrowed: it may hold the last reference to a task.
        let former = self.quiet().renew(key, waker);
        former.is_some()
    }

    /// Gives the wait up. Owner only.
    pub fn forget_quiet(&self, key: QuietKey) {
        let former = self.quiet().forget(key);
        drop(former);
    }

    /// Has the clock jump to the next deadline whenever it has been quiet for that long.
    pub fn set_autojump(&self, cushion: Option<u64>) {
        self.quiet().set_autojump(cushion);
    }

    /// One task more, or one less, waits for work that is done in another thread of this process.
    pub fn count_work(&self, more: bool) {
        self.quiet().count_work(more);
    }

    /// Whether a task waits for such work.
    pub fn is_at_work(&self) -> bool {
        self.quiet().is_at_work()
    }

    /// Whether anybody waits until nobody else has anything to do.
    #[inline]
    pub fn is_quiet_awaited(&self) -> bool {
        self.quiet().is_awaited()
    }

    /// How time passes in the next wait.
    pub fn pace(&self) -> Pace {
        if !self.quiet().is_jump_held() {
            return Pace::Own;
        }
        let deadline = self.timers().next_deadline();
        Pace::Real(deadline.map(|deadline| deadline.saturating_sub(clock::now())))
    }

    /// How long nothing may happen until [`Scheduler::after_quiet`] is to be called, in nanoseconds.
    /// `None`: nobody waits for that.
    pub fn patience(&self) -> Option<u64> {
        self.quiet().patience(!self.timers().is_empty())
    }

    /// Nobody was ready, and nothing has happened, for `lasted` nanoseconds.
    pub fn after_quiet(&self, lasted: u64) {
        let patient = self.quiet().take_patient(lasted);
        let somebody = !patient.is_empty();
        for waker in patient {
            waker.wake();
        }
        if !somebody
            && self.quiet().may_jump(lasted)
            && let Some(deadline) = self.timers().next_deadline()
        {
            clock::jump_to(deadline);
            self.fire_timers();
        }
    }

    fn collect_letters(&self) {
        if !self.inbox.is_rung() {
            return;
        }
        self.inbox.answer();
        while let Some(letter) = self.inbox.collect() {
            match letter {
                Letter::Unparked(task) => self.queue().push_ready(task),
                Letter::Closing(fd) => self.reactor().closing(fd, Task::unpark_owned),
                Letter::Deadline(deadline, scope) => {
                    self.cancel_at(deadline, scope);
                }
                #[cfg(not(loom))]
                Letter::Futures => self.note_futures(),
            }
        }
    }

    /// Whether a host's loop has the thread: from the end of one tick to the beginning of the next.
    /// What becomes ready in the meantime makes [`Scheduler::fd`] readable.
    #[inline]
    pub fn set_host_has_the_thread(&self, value: bool) {
        self.host_has_the_thread.set(value);
    }

    #[inline]
    fn tell_host(&self) {
        if self.host_has_the_thread.get() {
            self.inbox.ring();
        }
    }
}
