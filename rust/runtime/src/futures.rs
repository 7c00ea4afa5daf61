//! Rust futures that make progress by themselves, without a task of ours to poll them.
//!
//! What is not hot is written as a future: some steps one after the other, with waits for a descriptor,
//! a time, a job of the offload pool or a lock in between. Each scheduler has an executor of such
//! futures, made with the first of them, and polls in its looks those that have been woken; no
//! task is switched to for that. [`Scheduler::spawn`](crate::scheduler::Scheduler::spawn) starts one,
//! [`Ready`](crate::scheduler::Ready) and [`Until`](crate::scheduler::Until) are what it waits with.
//!
//! The executor is `async-executor`'s. What drives it is ours: `async-io` and `blocking` keep a reactor,
//! a timer heap and a pool in statics that nobody can reset, and in the child of a fork they are as the
//! parent's threads left them. Tried with async-io 2.6.0 and blocking 1.7.0, after the parent had used
//! them once: in the child a `Timer` and an `Async` descriptor are never ready, since a thread that is not
//! there holds the reactor's lock, and a single `blocking::unblock` is never run, since it is left to an
//! idle thread that is not there either. In a process that does not fork they work (`blocking` also
//! starts thirty threads for thirty jobs); but ours may fork at any time. That our counterparts do it right
//! is `tests/a_forked_child_starts_fresh.rs`.
//!
//! # What a future may do
//!
//! It is polled by its scheduler's thread, in the middle of a look, where no task is current: it must not
//! block, and must not run code that would park. It is dropped there, too, at the look after its
//! [`Handle`] was dropped; what remains when the scheduler itself is dropped is dropped by whoever drops that.
//! A future that holds objects of an interpreter wraps them in something that can deal with that
//! (the bindings' `Attached`). If its destructor panics, `async-task` ends the process.
//!
//! # Forking
//!
//! In the child the parent's executor is leaked with all its futures: it is neither polled nor dropped, for
//! their destructors would close a door in the parent's house (end a thread's wait, give a lock back), and
//! another thread may have held a lock in there at that moment. Handles and wakers know the generation of the
//! process, and do nothing in another one.

use std::fmt;
use std::future::{self, Future};
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_executor::{Executor, FallibleTask};

use crate::fork;

/// The futures of one scheduler.
pub(crate) struct Futures {
    executor: Arc<Executor<'static>>,
    /// Away while it is being polled.
    turn: Option<Turn>,
}

/// What polls them.
pub(crate) struct Turn {
    /// Polled, it polls those that have been woken, some two hundred at most. It never ends.
    run: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Has it polled again.
    waker: Waker,
    generation: u32,
}

impl Futures {
    /// An executor that has `waker` woken when there is something to poll. The first time, after the first
    /// future was spawned, it is to be polled unasked.
    pub(crate) fn new(waker: Waker) -> Self {
        let executor = Arc::new(Executor::new());
        let turn = Turn::new(executor.clone(), waker);
        Futures {
            executor,
            turn: Some(turn),
        }
    }

    pub(crate) fn executor(&self) -> Arc<Executor<'static>> {
        self.executor.clone()
    }

    /// Takes out what is to be polled; `None` from within that poll.
    pub(crate) fn begin_turn(&mut self) -> Option<Turn> {
        self.turn.take()
    }

    /// Gives it back.
    pub(crate) fn end_turn(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }
}

impl Turn {
    fn new(executor: Arc<Executor<'static>>, waker: Waker) -> Self {
        Turn {
            run: Box::pin(async move { executor.run(future::pending()).await }),
            waker,
            generation: fork::generation(),
        }
    }

    /// Polls those that have been woken. What panics there goes on panicking where it is awaited.
    pub(crate) fn poll(&mut self) {
        let poll = self
            .run
            .as_mut()
            .poll(&mut Context::from_waker(&self.waker));
        debug_assert!(poll.is_pending());
    }

    /// Whether it is of this process, and not of a parent's.
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }
}

/// A future that was spawned. Awaiting it gives its output; if it has panicked, its panic goes on there.
///
/// Dropping the handle cancels it: it is not polled again, and is dropped in the next look of its scheduler.
#[must_use = "dropping the handle cancels the future: await or detach it"]
pub struct Handle<T> {
    task: ManuallyDrop<FallibleTask<T>>,
    generation: u32,
}

impl<T> Handle<T> {
    pub(crate) fn new(task: FallibleTask<T>) -> Self {
        Handle {
            task: ManuallyDrop::new(task),
            generation: fork::generation(),
        }
    }

    /// Lets it go on with nobody waiting for it.
    pub fn detach(self) {
        let mut this = ManuallyDrop::new(self);
        if this.is_ours() {
            // SAFETY: taken once: `this` is not dropped.
            unsafe { ManuallyDrop::take(&mut this.task) }.detach();
        }
    }

    /// Whether awaiting it would end at once.
    pub fn is_finished(&self) -> bool {
        self.is_ours() && self.task.is_finished()
    }

    fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }
}

impl<T> Future for Handle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if !self.is_ours() {
            return Poll::Pending;
        }
        let output = Pin::new(&mut *self.task).poll(cx);
        output.map(|output| output.expect("a future is awaited no longer than its scheduler lives"))
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // In a child the parent's executor is not to be touched.
        if self.is_ours() {
            // SAFETY: not dropped before, and nothing uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.task) };
        }
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("finished", &self.is_finished())
            .finish()
    }
}
