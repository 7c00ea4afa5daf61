//! Waiting for child processes. Nobody is reaped here: the caller asks the system again what there
//! is to be told, as often as it is woken.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use aevent_runtime::clock::NEVER;
use aevent_runtime::fork;
use aevent_runtime::offload::Offload;
use aevent_runtime::reactor::Interest;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::prelude::*;

use crate::errors;
use crate::poll::{Waited, wait_for};
use crate::run_loop;
use crate::task::TaskRef;
use crate::wait;

/// What a thread of the pool waits for: the arguments of `waitid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    which: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
}

/// Who asked the same question. One thread waits for all of them, and goes on waiting when they have
/// given up: whoever asks next joins, so that giving up and asking again takes no further threads.
struct Asked {
    generation: u32,
    questions: HashMap<Question, Arc<Answer>>,
}

#[derive(Default)]
struct Answer {
    queue: WaitQueue,
    is_there: std::sync::atomic::AtomicBool,
}

static ASKED: Mutex<Option<Asked>> = Mutex::new(None);

fn asked() -> MutexGuard<'static, Option<Asked>> {
    let mut asked = ASKED.lock().unwrap_or_else(|poison| poison.into_inner());
    if asked
        .as_ref()
        .is_none_or(|asked| asked.generation != fork::generation())
    {
        // The parent's questions are about its children, and the threads that ask them are not here.
        std::mem::forget(asked.replace(Asked {
            generation: fork::generation(),
            questions: HashMap::new(),
        }));
    }
    asked
}

fn ask(question: Question) -> Arc<Answer> {
    let mut guard = asked();
    let asked = guard.as_mut().expect("it was just made");
    if let Some(answer) = asked.questions.get(&question) {
        return answer.clone();
    }
    let answer = Arc::new(Answer::default());
    asked.questions.insert(question, answer.clone());
    drop(guard);
    let theirs = answer.clone();
    Offload::global().submit(Box::new(move || {
        // SAFETY: the call fills the structure in; WNOWAIT leaves the child as it is.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            while libc::waitid(
                question.which,
                question.id,
                &mut info,
                question.options | libc::WNOWAIT,
            ) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
        }
        // First: who asks from now on gets an answer of later.
        if let Some(asked) = self::asked().as_mut() {
            asked.questions.remove(&question);
        }
        theirs
            .is_there
            .store(true, std::sync::atomic::Ordering::Release);
        theirs.queue.notify_all();
    }));
    answer
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
    let task = task.clone();
    wait::check(&task)?;
    let deadline = timeout.map_or(NEVER, wait::deadline_after);
    // A clock of a test's does not jump ahead of a child that is at work.
    event_loop.scheduler.count_work(true);
    let result = wait_for_end(
        py,
        event_loop,
        &task,
        Question { which, id, options },
        deadline,
    );
    event_loop.scheduler.count_work(false);
    result
}

fn wait_for_end(
    py: Python<'_>,
    event_loop: &run_loop::Loop,
    task: &TaskRef,
    question: Question,
    deadline: u64,
) -> PyResult<bool> {
    let Question { which, id, options } = question;
    if which == libc::P_PID
        && options & (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) == libc::WEXITED
        && let Some(fd) = open_pidfd(id)
    {
        let waited = wait_for(py, fd.as_raw_fd(), Interest::READ, deadline)?;
        if waited != Waited::Impossible {
            return Ok(waited == Waited::Reported);
        }
    }
    let answer = ask(question);
    let mut waiter = answer.queue.listen();
    Ok(wait::park_until(
        py,
        event_loop,
        task,
        deadline,
        false,
        |cx| {
            if answer.is_there.load(std::sync::atomic::Ordering::Acquire) {
                return std::task::Poll::Ready(());
            }
            waiter.poll(cx)
        },
    )?)
}

/// A descriptor that is readable when the process has ended. `None` where there is none.
fn open_pidfd(pid: libc::id_t) -> Option<OwnedFd> {
    // SAFETY: takes numbers only; the descriptor is new.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}
