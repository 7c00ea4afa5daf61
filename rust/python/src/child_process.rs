//! Waiting for child processes. Nobody is reaped here: the caller asks the system again what there
//! is to be told, as often as it is woken.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use aevent_runtime::clock::NEVER;
use aevent_runtime::offload::Offload;
use aevent_runtime::reactor::Interest;
use aevent_runtime::wait_queue::{WaitQueue, Waiter};
use pyo3::prelude::*;

use crate::bridge::{self, AtWork};
use crate::errors;
use crate::run_loop::{self, Loop};
use crate::task::SchedulerRef;
use crate::wait;

/// The arguments of `waitid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    which: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
}

impl Question {
    /// Whether a pidfd would answer it.
    fn is_whether_one_has_ended(&self) -> bool {
        const KINDS: libc::c_int = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
        self.which == libc::P_PID && self.options & KINDS == libc::WEXITED
    }

    /// Blocks until there is something to be told, or it is clear that there never will be.
    fn ask(&self) {
        // SAFETY: the call fills the structure in; WNOWAIT leaves the child as it is.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            while libc::waitid(self.which, self.id, &mut info, self.options | libc::WNOWAIT) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
        }
    }
}

/// The questions that a thread of the pool asks for a loop's tasks, and who awaits the answer. It goes
/// on waiting when they have given up: whoever asks next joins, so that giving up and asking again takes no
/// further threads.
#[derive(Default)]
pub struct Questions(RefCell<HashMap<Question, Arc<WaitQueue>>>);

impl Questions {
    /// Who is told joins those who have asked the same.
    fn join(&self, event_loop: &Loop, question: Question) -> Waiter {
        if let Some(answer) = self.0.borrow().get(&question) {
            return answer.listen();
        }
        let answer = Arc::new(WaitQueue::new());
        let waiter = answer.listen();
        self.0.borrow_mut().insert(question, answer.clone());
        let asked = Offload::global().run(move || question.ask());
        let tell = async move {
            // It does not panic, and what there is to be told is for the caller to ask.
            let _ = asked.await;
            if let Some(event_loop) = run_loop::existing() {
                // First: who asks from now on gets an answer of later.
                event_loop.questions.0.borrow_mut().remove(&question);
            }
            answer.notify_all();
        };
        event_loop.scheduler.spawn(tell).detach();
        waiter
    }

    /// In the child of a fork: the parent's are about its children, and the threads that ask them are
    /// not here.
    pub fn forget(&self) {
        mem::forget(self.0.take());
    }
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (which, id, options, timeout=None))]
pub fn wait_child(
    py: Python<'_>,
    which: u32,
    id: u32,
    options: i32,
    timeout: Option<f64>,
) -> PyResult<bool> {
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("waiting for a child process"));
    };
    wait::check(task)?;
    let deadline = timeout.map_or(NEVER, wait::deadline_after);
    let question = Question { which, id, options };
    let _at_work = AtWork::begin(event_loop);
    let news = bridge::park_on_until(py, deadline, Box::pin(news(event_loop, question)))?;
    Ok(news.is_some())
}

/// There may be something to be told.
async fn news(event_loop: &Loop, question: Question) {
    if question.is_whether_one_has_ended() && has_ended(&event_loop.scheduler, question.id).await {
        return;
    }
    let mut waiter = event_loop.questions.join(event_loop, question);
    poll_fn(|cx| waiter.poll(cx)).await;
}

/// Waits for the end of a process. False at once, if there is no descriptor for that.
async fn has_ended(scheduler: &SchedulerRef, pid: libc::id_t) -> bool {
    // SAFETY: takes numbers only; the descriptor is new.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return false;
        }
        OwnedFd::from_raw_fd(fd as libc::c_int)
    };
    scheduler
        .ready(pidfd.as_raw_fd(), Interest::READ)
        .await
        .is_ok()
}
