//! Single waits, for descriptors that others may close behind our back.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::task::Waker;

use super::{Interest, ONCE, Reactor};

/// Who is told.
pub(super) enum Awaiting<W> {
    Waiter(W),
    /// A future. Waking it only pushes to a queue or an inbox, as with all wakers here.
    Future(Waker),
}

impl<W> Awaiting<W> {
    #[inline(always)]
    pub(super) fn tell(self, wake: &mut impl FnMut(W)) {
        match self {
            Awaiting::Waiter(waiter) => wake(waiter),
            Awaiting::Future(waker) => waker.wake(),
        }
    }
}

/// A descriptor that is registered for one wait.
pub(super) struct Once<W> {
    pub(super) generation: u32,
    /// Whether somebody will still call `end_once`.
    pub(super) in_use: bool,
    /// `None` once it was woken.
    pub(super) waiter: Option<Awaiting<W>>,
    /// The descriptor that the caller named.
    pub(super) of: RawFd,
    /// What is registered; -1 when it no longer is.
    pub(super) fd: RawFd,
    /// A duplicate made because the descriptor itself is registered already.
    pub(super) duplicate: bool,
}

/// A single wait, as returned by [`Reactor::wait_once`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnceKey {
    index: u32,
    generation: u32,
}

impl<W> Reactor<W> {
    /// Registers a descriptor that is not ours for one wait.
    ///
    /// The registration is removed by [`Reactor::end_once`], which must be called however the wait
    /// ends. Errors: `EPERM` for regular files, which are always ready; `EBADF`.
    pub fn wait_once(&mut self, fd: RawFd, interest: Interest, waiter: W) -> io::Result<OnceKey> {
        self.register_once(fd, interest, Awaiting::Waiter(waiter))
    }

    /// The same for a future.
    pub fn wake_once(
        &mut self,
        fd: RawFd,
        interest: Interest,
        waker: &Waker,
    ) -> io::Result<OnceKey> {
        self.register_once(fd, interest, Awaiting::Future(waker.clone()))
    }

    /// Another waker for a future that goes on waiting; gives back the former one.
    pub fn renew_once(&mut self, key: OnceKey, waker: &Waker) -> Option<Waker> {
        let slot = &mut self.once[key.index as usize];
        match &mut slot.waiter {
            Some(Awaiting::Future(former))
                if slot.generation == key.generation && !former.will_wake(waker) =>
            {
                Some(std::mem::replace(former, waker.clone()))
            }
            _ => None,
        }
    }

    fn register_once(
        &mut self,
        fd: RawFd,
        interest: Interest,
        waiter: Awaiting<W>,
    ) -> io::Result<OnceKey> {
        let index = match self.once_free.pop() {
            Some(index) => index,
            None => {
                self.once.push(Once {
                    generation: 0,
                    in_use: false,
                    waiter: None,
                    of: -1,
                    fd: -1,
                    duplicate: false,
                });
                (self.once.len() - 1) as u32
            }
        };
        let slot = &mut self.once[index as usize];
        slot.generation = slot.generation.wrapping_add(1) & 0x3fff_ffff;
        let generation = slot.generation;
        let key = ONCE | (u64::from(generation) << 32) | u64::from(index);
        let flag = |asked: bool, flag: libc::c_int| if asked { flag } else { 0 };
        let events = flag(interest.read, libc::EPOLLIN | libc::EPOLLRDHUP)
            | flag(interest.write, libc::EPOLLOUT)
            | flag(interest.urgent, libc::EPOLLPRI)
            | libc::EPOLLONESHOT;
        let mut polled = fd;
        let mut duplicate = false;
        let mut result = self.control(fd, libc::EPOLL_CTL_ADD, events, key);
        if matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EEXIST)) {
            // Registered already, as a socket of ours or by another single wait. epoll tells
            // registrations apart by descriptor number, so a duplicate gets one of its own.
            // SAFETY: no pointers; the result is checked.
            polled = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
            result = if polled < 0 {
                Err(io::Error::last_os_error())
            } else {
                duplicate = true;
                self.control(polled, libc::EPOLL_CTL_ADD, events, key)
            };
        }
        if let Err(error) = result {
            if duplicate {
                // SAFETY: the duplicate is ours alone.
                unsafe { libc::close(polled) };
            }
            self.once_free.push(index);
            return Err(error);
        }
        let slot = &mut self.once[index as usize];
        slot.in_use = true;
        slot.waiter = Some(waiter);
        slot.of = fd;
        slot.fd = polled;
        slot.duplicate = duplicate;
        Ok(OnceKey { index, generation })
    }

    /// Whether the wait is over because something has happened, rather than still under way.
    pub fn has_fired(&self, key: OnceKey) -> bool {
        let slot = &self.once[key.index as usize];
        slot.generation == key.generation && slot.in_use && slot.waiter.is_none()
    }

    /// Ends a single wait, whether it was reported or not.
    pub fn end_once(&mut self, key: OnceKey) {
        let slot = &mut self.once[key.index as usize];
        if slot.generation != key.generation || !slot.in_use {
            return;
        }
        slot.in_use = false;
        slot.waiter = None;
        self.unregister_once(key.index as usize);
        self.once_free.push(key.index);
    }

    pub(super) fn unregister_once(&mut self, index: usize) {
        let slot = &mut self.once[index];
        if slot.fd < 0 {
            return;
        }
        // SAFETY: if the owner has closed the descriptor meanwhile, the kernel says so and the
        // registration is gone with it.
        let _ = self
            .poller
            .delete(unsafe { BorrowedFd::borrow_raw(slot.fd) });
        if slot.duplicate {
            // SAFETY: the duplicate is ours alone.
            unsafe { libc::close(slot.fd) };
        }
        slot.fd = -1;
    }
}
