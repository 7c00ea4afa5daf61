//! Tasks that wait for a descriptor to be ready.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{Letter, Scheduler};
use crate::reactor::{Direction, Interest, OnceKey};
use crate::task::Task;

impl<X: Send + Sync + 'static> Scheduler<X> {
    /// See [`Reactor::watch_signals`].
    pub fn watch_signals(&self, fd: RawFd) -> io::Result<()> {
        self.reactor().watch_signals(fd)
    }

    /// See [`Reactor::may_try`].
    #[inline]
    pub fn may_try(&self, fd: RawFd, direction: Direction) -> bool {
        self.reactor().may_try(fd, direction)
    }

    /// See [`Reactor::exhausted`].
    #[inline]
    pub fn exhausted(&self, fd: RawFd, direction: Direction) {
        self.reactor().exhausted(fd, direction);
    }

    /// See [`Reactor::read_short`].
    #[inline]
    pub fn read_short(&self, fd: RawFd) {
        self.reactor().read_short(fd);
    }

    /// See [`Reactor::wait`].
    #[inline]
    pub fn wait_ready(
        &self,
        fd: RawFd,
        direction: Direction,
        task: Arc<Task<X>>,
    ) -> io::Result<bool> {
        self.reactor().wait(fd, direction, task)
    }

    /// Takes back a wait of `task` after a timeout or a cancellation.
    pub fn forget_ready(&self, fd: RawFd, direction: Direction, task: &Arc<Task<X>>) {
        self.reactor()
            .forget(fd, direction, |waiter| Arc::ptr_eq(waiter, task));
    }

    /// Before `fd` is closed by the owner's thread: wakes whoever waits for it. The caller has
    /// renewed its generation.
    pub fn closing(&self, fd: RawFd) {
        self.reactor().closing(fd, Task::unpark_owned);
    }

    /// Like [`Scheduler::closing`], from another thread.
    pub fn closing_elsewhere(&self, fd: RawFd) {
        self.inbox.send(Letter::Closing(fd));
    }

    /// See [`Reactor::wait_once`].
    pub fn wait_once(
        &self,
        fd: RawFd,
        interest: Interest,
        task: Arc<Task<X>>,
    ) -> io::Result<OnceKey> {
        self.reactor().wait_once(fd, interest, task)
    }

    /// See [`Reactor::has_fired`].
    pub fn has_fired(&self, key: OnceKey) -> bool {
        self.reactor().has_fired(key)
    }

    /// See [`Reactor::end_once`].
    pub fn end_once(&self, key: OnceKey) {
        self.reactor().end_once(key);
    }
}
