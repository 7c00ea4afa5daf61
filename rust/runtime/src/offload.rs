//! OS threads for calls that block and cannot be made otherwise: name look-ups, disk files, C
//! libraries.
//!
//! A thread is started whenever a job is queued that no idle thread will take, up to a limit: thirty
//! look-ups at once should take as long as the slowest. A thread costs some 20 µs to start and few pages
//! of memory, and ends when it was idle for a while.
//!
//! `blocking`, of the same family as the executor of [`futures`](crate::futures), does as well in that (thirty
//! jobs of 100 ms took 102 to 106 ms with either). It is not this because of what follows: its pool is a static that
//! a forked child cannot reset, so a job there waits for ever for one of the parent's idle threads; its threads
//! take signals; and their stacks are 2 MiB, which deep Python recursion exceeds.
//!
//! # Signals
//!
//! The threads block all signals but those that a fault raises in the very thread, so that signals
//! reach the main thread, where the interpreter and the scheduler's wake-up expect them. A process
//! that a job starts inherits the mask: whoever does that must reset it in the child.
//!
//! # Forking
//!
//! A forked child has the memory of these threads' work, but not the threads; a mutex that one
//! held at that moment stays locked for ever. So after a fork the pool's state is abandoned, never
//! locked and never freed, and a new generation begins.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// The global pool's limit.
///
/// These threads wait rather than compute, so the number of processors says nothing. It is to be
/// well above what one program resolves or opens at once (anyio and trio allow 40), since jobs
/// that wait for each other's effects deadlock at the limit; and low enough that a burst of ten
/// thousand look-ups neither exhausts the process's threads nor floods the name server.
pub const DEFAULT_MAX_THREADS: usize = 64;

/// How long a thread of the global pool stays without work: longer than the pause between two
/// requests of a slow client, so that steady work does not start threads over and over.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(10);

/// What Python code expects of a stack. Only what is touched takes memory.
const STACK_SIZE: usize = 8 << 20;

/// Stands for every longer time, for the sum with the present must not overflow.
const FOREVER: Duration = Duration::from_secs(1 << 30);

type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads that runs jobs in the order in which they were queued.
pub struct Offload {
    max_threads: usize,
    idle: Duration,
    /// The pool of this process, a `Box` made raw; null before the first job and after a fork.
    pool: AtomicPtr<Arc<Pool>>,
}

/// One generation: what its threads share.
struct Pool {
    state: Mutex<State>,
    /// Signalled once for each job queued for an idle thread.
    work: Condvar,
    max_threads: usize,
    idle: Duration,
}

struct State {
    jobs: VecDeque<Task>,
    threads: usize,
    /// Threads that hold no job: those that wait and those that are just being started. Each will
    /// look at `jobs` before it does anything else, so another thread is needed iff there are more
    /// jobs than these.
    idle: usize,
    /// The pool's owner is gone: end when the jobs are done.
    closing: bool,
}

static GLOBAL: Offload = Offload::new(DEFAULT_MAX_THREADS, DEFAULT_IDLE);

impl Offload {
    /// A pool of at most `max_threads` threads, each of which ends when it was idle that long.
    /// Starts nothing yet.
    ///
    /// # Panics
    ///
    /// If `max_threads` is 0.
    pub const fn new(max_threads: usize, idle: Duration) -> Self {
        assert!(max_threads > 0, "a pool needs at least one thread");
        Offload {
            max_threads,
            idle,
            pool: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The process's pool.
    pub fn global() -> &'static Offload {
        &GLOBAL
    }

    /// Queues a job. It starts at once unless the limit is reached.
    ///
    /// If it panics, that is reported by the panic hook and otherwise ignored. If the system
    /// refuses a thread and the pool has none, the job runs here and now: late beats never.
    pub fn submit(&self, job: Box<dyn FnOnce() + Send>) {
        self.pool().submit(job);
    }

    /// Runs `function` on a thread of the pool.
    pub fn run<T, F>(&self, function: F) -> Job<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let shared = Arc::new(Mutex::new(Progress::Pending(None)));
        let theirs = Arc::clone(&shared);
        self.submit(Box::new(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(function));
            let before = mem::replace(&mut *lock(&theirs), Progress::Done(result));
            // If the job was abandoned, this drops the result.
            drop(theirs);
            if let Progress::Pending(Some(waker)) = before {
                waker.wake();
            }
        }));
        Job { shared }
    }

    /// How many threads there are now.
    pub fn threads(&self) -> usize {
        lock(&self.pool().state).threads
    }

    /// How many jobs wait for a thread.
    pub fn queued(&self) -> usize {
        lock(&self.pool().state).jobs.len()
    }

    /// To be called in a child process, before any job is queued there and while it has only one
    /// thread. Begins anew; jobs that were queued or running in the parent are not run here, and a
    /// [`Job`] for one will not be done.
    pub fn after_fork_child(&self) {
        // Leaked, since a thread that no longer exists may have been at work in there.
        self.pool.store(ptr::null_mut(), Ordering::Release);
    }

    fn pool(&self) -> &Arc<Pool> {
        let mut pool = self.pool.load(Ordering::Acquire);
        if pool.is_null() {
            // Not a `OnceLock`: a fork while another thread initialises it would leave the child
            // waiting for that thread.
            let fresh = Box::into_raw(Box::new(Arc::new(Pool::new(self.max_threads, self.idle))));
            pool =
                match self
                    .pool
                    .compare_exchange(pool, fresh, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => fresh,
                    Err(winner) => {
                        // SAFETY: `fresh` came from `Box::into_raw` above and nobody else has seen it.
                        drop(unsafe { Box::from_raw(fresh) });
                        winner
                    }
                };
        }
        // SAFETY: not null, so it came from `Box::into_raw` above, and only `drop`, which has
        // `&mut self`, frees what is in there. What `after_fork_child` takes out is never freed.
        unsafe { &*pool }
    }
}

impl Drop for Offload {
    /// The jobs that are queued are still run; nobody waits for them here.
    fn drop(&mut self) {
        let pool = mem::replace(self.pool.get_mut(), ptr::null_mut());
        if pool.is_null() {
            return;
        }
        // SAFETY: not null, so it came from `Box::into_raw` in `pool`, whose borrows have ended
        // since we have `&mut self`.
        let pool = unsafe { Box::from_raw(pool) };
        lock(&pool.state).closing = true;
        pool.work.notify_all();
    }
}

impl fmt::Debug for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offload")
            .field("max_threads", &self.max_threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// Jobs and wakers never run under these locks, so a poisoned one guards nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Pool {
    fn new(max_threads: usize, idle: Duration) -> Self {
        Pool {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                threads: 0,
                idle: 0,
                closing: false,
            }),
            work: Condvar::new(),
            max_threads,
            idle,
        }
    }

    fn submit(self: &Arc<Self>, job: Task) {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.threads == self.max_threads {
            // A thread that finishes its job takes the next one unasked.
            let somebody_is_idle = state.idle > 0;
            drop(state);
            if somebody_is_idle {
                self.work.notify_one();
            }
            return;
        }
        state.threads += 1;
        state.idle += 1;
        drop(state);
        if self.start_thread().is_ok() {
            return;
        }
        let mut state = lock(&self.state);
        state.threads -= 1;
        state.idle -= 1;
        if state.threads > 0 {
            // Somebody will come to it.
            return;
        }
        while let Some(job) = state.jobs.pop_front() {
            drop(state);
            run_job(job);
            state = lock(&self.state);
        }
    }

    fn start_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        // The new thread inherits the mask, so there is no moment in which it could be hit.
        let _masked = SignalMask::block_all();
        thread::Builder::new()
            .name("aevent-offload".into())
            .stack_size(STACK_SIZE)
            .spawn(move || pool.work())
            .map(drop)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = lock(&self.state);
        let mut give_up_at = None;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.idle -= 1;
                drop(state);
                run_job(job);
                state = lock(&self.state);
                state.idle += 1;
                give_up_at = None;
                continue;
            }
            let now = Instant::now();
            let until = *give_up_at.get_or_insert_with(|| now + self.idle.min(FOREVER));
            if state.closing || now >= until {
                break;
            }
            (state, _) = self
                .work
                .wait_timeout(state, until - now)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.idle -= 1;
        state.threads -= 1;
    }
}

fn run_job(job: Task) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(job)) {
        // The hook has reported it. A payload may panic in its destructor, which would end the
        // thread with the counts wrong; so the few bytes are leaked.
        mem::forget(payload);
    }
}

/// Restores the calling thread's signal mask when dropped.
struct SignalMask(libc::sigset_t);

impl SignalMask {
    fn block_all() -> Self {
        // SAFETY: a `sigset_t` is plain integers, for which zero is valid; the calls get valid
        // places, and fill the sets in before they are read. They fail only for invalid arguments.
        unsafe {
            let mut all: libc::sigset_t = mem::zeroed();
            let mut before: libc::sigset_t = mem::zeroed();
            libc::sigfillset(&mut all);
            // A fault whose signal is blocked kills the process before any handler (faulthandler's,
            // for one) can say where.
            for fault in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGABRT,
                libc::SIGSYS,
            ] {
                libc::sigdelset(&mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalMask(before)
        }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: `self.0` is the mask that `pthread_sigmask` told us; nothing is asked for back.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut());
        }
    }
}

/// A function that runs on another thread: a future of its result, or of the payload of its panic.
///
/// Dropping it abandons the function: that runs to its end, and the pool's thread drops the result.
#[must_use = "a job that nobody waits for should be submitted instead"]
pub struct Job<T> {
    shared: Arc<Mutex<Progress<T>>>,
}

enum Progress<T> {
    /// Not done; whom to wake.
    Pending(Option<Waker>),
    /// Done, not yet asked for.
    Done(Result<T, Box<dyn Any + Send>>),
    /// The result was given away.
    Taken,
}

impl<T> Job<T> {
    /// Whether the result is there, so that the next poll returns it.
    pub fn is_done(&self) -> bool {
        matches!(*lock(&self.shared), Progress::Done(_))
    }
}

impl<T> Future for Job<T> {
    type Output = thread::Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = lock(&self.shared);
        match mem::replace(&mut *progress, Progress::Taken) {
            Progress::Done(result) => Poll::Ready(result),
            Progress::Pending(waker) => {
                let (kept, replaced) = match waker {
                    Some(waker) if waker.will_wake(cx.waker()) => (waker, None),
                    replaced => (cx.waker().clone(), replaced),
                };
                *progress = Progress::Pending(Some(kept));
                // A waker's destructor may be anybody's code.
                drop(progress);
                drop(replaced);
                Poll::Pending
            }
            Progress::Taken => panic!("a Job was polled after it was ready"),
        }
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("done", &self.is_done())
            .finish()
    }
}
