//! Readiness of file descriptors.
//!
//! A descriptor that belongs to us (a socket whose closing we see) is registered once in its life,
//! edge-triggered and for both directions, and its readiness bits are kept here: a caller first
//! tries its system call, and only waits when that said `EAGAIN`. A descriptor that others may close
//! behind our back is registered for a single wait instead (`wait_once`).
//!
//! Registration goes through `polling`; the wait itself is `epoll_pwait2` on the same epoll
//! descriptor, because `polling`'s own `wait` makes four further system calls each time (arming its
//! timerfd, clearing its notifier, re-registering both), which is as much as a small request costs.

mod once;
mod waiting;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use polling::{Event, PollMode, Poller};

use crate::descriptor;
use once::Once;

pub use once::OnceKey;
pub use waiting::wait;

/// Which readiness a waiter wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Data, a connection or the end of the stream.
    Read,
    /// Room in the send buffer, or a finished connect.
    Write,
}

/// What a single wait is for. An error or a hang-up ends each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// Data, a connection or the end of the stream.
    pub read: bool,
    /// Room in the send buffer.
    pub write: bool,
    /// Urgent data. Asked for only by who can see them: the others would be woken again and
    /// again by what none of their calls takes away.
    pub urgent: bool,
}

impl Interest {
    /// Nothing but reading.
    pub const READ: Self = Self {
        read: true,
        write: false,
        urgent: false,
    };
    /// Nothing but writing.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
        urgent: false,
    };
}

const BELL: u64 = u64::MAX - 1;
const TIMER: u64 = u64::MAX - 2;
const SIGNALS: u64 = u64::MAX - 3;
const ONCE: u64 = 1 << 63;

/// What is known about a descriptor of ours.
struct Source<W> {
    /// The descriptor's generation when this was learnt; see [`descriptor`].
    generation: u32,
    registered: bool,
    /// An edge was reported and no call has said `EAGAIN` since. Starts true: nothing is known.
    readable: bool,
    writable: bool,
    /// The peer has shut down or an error is pending, so that a short read proves nothing: the end
    /// of the stream may have been reported by the same edge as the data.
    hung_up: bool,
    readers: Vec<W>,
    writers: Vec<W>,
}

impl<W> Source<W> {
    fn new() -> Self {
        Self {
            generation: 0,
            registered: false,
            readable: true,
            writable: true,
            hung_up: false,
            readers: Vec::new(),
            writers: Vec::new(),
        }
    }
}

/// The events of one wait. Kept apart from the reactor, so that nothing of it is borrowed while the
/// thread blocks.
pub struct Batch {
    events: Vec<libc::epoll_event>,
}

/// The readiness of all descriptors that one scheduler watches; `W` is who gets woken.
pub struct Reactor<W> {
    poller: Poller,
    sources: Vec<Source<W>>,
    once: Vec<Once<W>>,
    once_free: Vec<u32>,
    batch: Option<Batch>,
    timer: OwnedFd,
    /// What the timerfd is set to.
    armed: u64,
    /// The pipe that signal handlers write to, or -1.
    signals: RawFd,
}

impl<W> Reactor<W> {
    /// A reactor that also wakes up when `bell` becomes readable.
    pub fn new(bell: RawFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        // SAFETY: no pointers; the result is checked.
        let timer = unsafe {
            libc::timerfd_create(
                libc::CLOCK_MONOTONIC,
                libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
            )
        };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened, for us alone.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        let reactor = Self {
            poller,
            sources: Vec::new(),
            once: Vec::new(),
            once_free: Vec::new(),
            batch: Some(Batch {
                // SAFETY: an all-zero `epoll_event` is a valid value.
                events: vec![unsafe { std::mem::zeroed() }; 512],
            }),
            timer,
            armed: u64::MAX,
            signals: -1,
        };
        reactor.register(bell, Event::readable(BELL as usize))?;
        let timer = reactor.timer.as_raw_fd();
        reactor.register(timer, Event::readable(TIMER as usize))?;
        Ok(reactor)
    }

    /// In the child of a fork: closes the child's copies of the descriptors and leaks those who
    /// waited, who are the parent's.
    ///
    /// The epoll instance is shared with the parent. Dropping the poller takes its own notifier and
    /// timer out of it, of which nobody makes use: see the module's description.
    pub fn abandon(self) {
        for slot in &self.once {
            if slot.duplicate && slot.fd >= 0 {
                // SAFETY: the child's copy of a duplicate that was made by `wait_once`.
                unsafe { libc::close(slot.fd) };
            }
        }
        std::mem::forget((self.sources, self.once));
    }

    /// The descriptor that a host's loop waits for: readable while an event waits to be dispatched.
    pub fn fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }

    fn register(&self, fd: RawFd, event: Event) -> io::Result<()> {
        // SAFETY: `polling` wants a source deleted before it is closed, because on some systems the
        // registration would dangle. With epoll a closed descriptor's registration vanishes, or,
        // when a duplicate lives on, reports a key whose generation we no longer accept.
        unsafe {
            self.poller
                .add_with_mode(&BorrowedFd::borrow_raw(fd), event, PollMode::Edge)
        }
    }

    /// Registers a descriptor of ours for its life, or changes the registration.
    ///
    /// `EPOLLRDHUP`, since otherwise data and the end of the stream that arrive together would be one
    /// edge that does not tell of the end, and after a short read nobody would look for it
    /// (`tests/end_of_stream.rs`).
    fn register_source(&self, fd: RawFd, operation: libc::c_int, key: u64) -> io::Result<()> {
        const EVENTS: libc::c_int =
            libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLOUT | libc::EPOLLET;
        self.control(fd, operation, EVENTS, key)
    }

    /// What `polling` asks for depends on nothing but the direction, so what needs other flags goes
    /// past it.
    fn control(
        &self,
        fd: RawFd,
        operation: libc::c_int,
        events: libc::c_int,
        key: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: key,
        };
        // SAFETY: `event` outlives the call. A descriptor that is closed while it is registered is
        // forgotten by the kernel, or, when a duplicate lives on, reports a key whose generation we
        // no longer accept.
        if unsafe { libc::epoll_ctl(self.poller.as_raw_fd(), operation, fd, &mut event) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    #[inline]
    fn source(&mut self, fd: RawFd) -> &mut Source<W> {
        let index = fd as usize;
        if index >= self.sources.len() {
            self.sources.resize_with(index + 1, Source::new);
        }
        let generation = descriptor::generation(fd);
        let source = &mut self.sources[index];
        if source.generation != generation {
            source.generation = generation;
            source.registered = false;
            source.readable = true;
            source.writable = true;
            source.hung_up = false;
        }
        source
    }

    /// Whether a call in this direction could do anything but say `EAGAIN`, as far as is known.
    #[inline]
    pub fn may_try(&mut self, fd: RawFd, direction: Direction) -> bool {
        let source = self.source(fd);
        match direction {
            Direction::Read => source.readable || !source.registered,
            Direction::Write => source.writable || !source.registered,
        }
    }

    /// Notes that a call said `EAGAIN`: not ready until the next edge.
    #[inline]
    pub fn exhausted(&mut self, fd: RawFd, direction: Direction) {
        let source = self.source(fd);
        match direction {
            Direction::Read => source.readable = false,
            Direction::Write => source.writable = false,
        }
    }

    /// Notes that a stream gave less than was asked for: the next call would say `EAGAIN`.
    ///
    /// Without effect for a descriptor that is not registered yet (an edge of before the
    /// registration is never reported again) and for one whose peer has shut down.
    #[inline]
    pub fn read_short(&mut self, fd: RawFd) {
        let source = self.source(fd);
        if source.registered && !source.hung_up {
            source.readable = false;
        }
    }

    /// Makes sure that edges of `fd` are reported, and has the next one wake `waiter`.
    ///
    /// Returns false, and does not wait, if an edge was reported since the caller's `EAGAIN`.
    /// Errors: those of `epoll_ctl`, `EPERM` for what cannot be polled.
    pub fn wait(&mut self, fd: RawFd, direction: Direction, waiter: W) -> io::Result<bool> {
        let source = self.source(fd);
        let ready = match direction {
            Direction::Read => source.readable,
            Direction::Write => source.writable,
        };
        if ready && source.registered {
            return Ok(false);
        }
        match direction {
            Direction::Read => source.readers.push(waiter),
            Direction::Write => source.writers.push(waiter),
        }
        if !source.registered {
            source.registered = true;
            source.readable = false;
            source.writable = false;
            let key = (u64::from(source.generation & 0x3fff_ffff) << 32) | fd as u64;
            let result = match self.register_source(fd, libc::EPOLL_CTL_ADD, key) {
                // The number was given a new generation while its registration lives on (two socket
                // objects on one descriptor): modifying it reports the present state anew.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    self.register_source(fd, libc::EPOLL_CTL_MOD, key)
                }
                result => result,
            };
            if let Err(error) = result {
                let source = self.source(fd);
                source.registered = false;
                source.readable = true;
                source.writable = true;
                match direction {
                    Direction::Read => source.readers.pop(),
                    Direction::Write => source.writers.pop(),
                };
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Takes back waits for which `is_it` holds, after a timeout or a cancellation.
    pub fn forget(&mut self, fd: RawFd, direction: Direction, is_it: impl Fn(&W) -> bool) {
        let Some(source) = self.sources.get_mut(fd as usize) else {
            return;
        };
        match direction {
            Direction::Read => source.readers.retain(|w| !is_it(w)),
            Direction::Write => source.writers.retain(|w| !is_it(w)),
        }
    }

    /// Takes the descriptor out of the reactor before it is closed and hands everybody who waits
    /// for it to `wake`; they find its generation changed.
    ///
    /// Single waits are unregistered here already: until they are ended, the number may have a new
    /// owner, whose registration must not be taken for theirs.
    pub fn closing(&mut self, fd: RawFd, mut wake: impl FnMut(W)) {
        let waits = if self.once_free.len() == self.once.len() {
            0
        } else {
            self.once.len()
        };
        for index in 0..waits {
            let slot = &mut self.once[index];
            if slot.in_use && slot.of == fd {
                if let Some(waiter) = slot.waiter.take() {
                    waiter.tell(&mut wake);
                }
                self.unregister_once(index);
            }
        }
        let Some(source) = self.sources.get_mut(fd as usize) else {
            return;
        };
        source.readers.drain(..).for_each(&mut wake);
        source.writers.drain(..).for_each(&mut wake);
        if std::mem::take(&mut source.registered) {
            // SAFETY: the caller closes the descriptor only after this call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // It may be gone already, closed by a finalizer: then so is its registration.
            let _ = self.poller.delete(fd);
        }
    }

    /// Has the reactor's descriptor become readable at `deadline`, for a host that waits for it.
    /// A deadline that is later than the one set already is left for that one to find.
    pub fn arm(&mut self, deadline: u64, now: u64) {
        if deadline == u64::MAX || (self.armed <= deadline && self.armed > now) {
            return;
        }
        self.armed = deadline;
        let deadline = deadline.max(1);
        let spec = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: (deadline / 1_000_000_000) as _,
                tv_nsec: (deadline % 1_000_000_000) as _,
            },
        };
        // SAFETY: `spec` outlives the call and the descriptor is open as long as `self`.
        unsafe {
            libc::timerfd_settime(
                self.timer.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &spec,
                std::ptr::null_mut(),
            )
        };
    }

    /// Wakes up when `fd`, the non-blocking pipe that signal handlers write to, has something to
    /// read, which is thrown away; -1 ends that.
    pub fn watch_signals(&mut self, fd: RawFd) -> io::Result<()> {
        if self.signals >= 0 {
            // SAFETY: the caller closes it only after this.
            let former = unsafe { BorrowedFd::borrow_raw(self.signals) };
            let _ = self.poller.delete(former);
        }
        self.signals = fd;
        if fd < 0 {
            return Ok(());
        }
        self.register(fd, Event::readable(SIGNALS as usize))
    }

    fn drain_signals(&self) {
        let mut buffer = [0u8; 256];
        // SAFETY: the buffer is valid for its length; the pipe is non-blocking.
        while unsafe { libc::read(self.signals, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
    }

    /// The buffer for one wait; give it back with [`Reactor::dispatch`].
    pub fn take_batch(&mut self) -> Batch {
        self.batch.take().unwrap_or_else(|| Batch {
            // SAFETY: an all-zero `epoll_event` is a valid value.
            events: vec![unsafe { std::mem::zeroed() }; 512],
        })
    }

    /// Notes `count` events and hands everybody they concern to `wake`.
    pub fn dispatch(&mut self, batch: Batch, count: usize, mut wake: impl FnMut(W)) {
        const READ: u32 = (libc::EPOLLIN | libc::EPOLLPRI) as u32;
        const HANG_UP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        const WRITE: u32 = (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        for event in &batch.events[..count] {
            let (key, flags) = (event.u64, event.events);
            if key >= SIGNALS {
                if key == SIGNALS {
                    self.drain_signals();
                } else if key == TIMER {
                    // It has fired, though our clock may say that it is still to come: the kernel's
                    // on another core can be ahead by a little. To believe the clock and not set
                    // the timer again would mean to wait for ever.
                    self.armed = u64::MAX;
                }
                continue;
            }
            if key & ONCE != 0 {
                let index = (key & 0xffff_ffff) as usize;
                let generation = ((key & !ONCE) >> 32) as u32;
                if let Some(slot) = self.once.get_mut(index)
                    && slot.generation == generation
                    && let Some(waiter) = slot.waiter.take()
                {
                    waiter.tell(&mut wake);
                }
                continue;
            }
            let fd = (key & 0xffff_ffff) as usize;
            let generation = (key >> 32) as u32;
            let Some(source) = self.sources.get_mut(fd) else {
                continue;
            };
            if source.generation & 0x3fff_ffff != generation {
                continue;
            }
            if flags & HANG_UP != 0 {
                source.hung_up = true;
            }
            if flags & (READ | HANG_UP) != 0 {
                source.readable = true;
                source.readers.drain(..).for_each(&mut wake);
            }
            if flags & WRITE != 0 {
                source.writable = true;
                source.writers.drain(..).for_each(&mut wake);
            }
        }
        self.batch = Some(batch);
    }
}
