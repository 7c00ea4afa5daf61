//! What the bindings keep with each task of the runtime.

use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::Arc;

use aevent_runtime::cancel_tree::Scope;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::children::ChildrenRef;
use crate::stack::Object;

/// A task of ours.
pub type TaskRef = Arc<Task<Payload>>;
/// The scheduler of one OS thread.
pub type SchedulerRef = Arc<Scheduler<Payload>>;
/// A cancel scope below which tasks of ours run.
pub type ScopeRef = Scope<TaskRef>;

/// What a task is made of, which decides how it is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A synchronous function on a stack of ours.
    Green,
    /// A coroutine, stepped by us, on whatever stack is at hand.
    Coroutine,
    /// Something that a host runs: resumed by calling `resume`.
    Host,
}

/// What a task of ours has still to do.
pub enum Entry {
    /// Nothing, or nothing that we start.
    None,
    /// A call that has not been made yet. `kwargs` may be null.
    Call {
        function: Object,
        args: Object,
        kwargs: Object,
    },
    /// The `threading.Thread` whose `run` is to be called.
    Thread(Object),
    /// A coroutine that has not ended.
    Coroutine(Object),
}

impl Entry {
    /// It will not be done: gives up what it refers to. A coroutine is closed, since nobody would
    /// ever await it.
    #[cold]
    pub fn give_up(self, py: Python<'_>) {
        match self {
            Entry::None => {}
            Entry::Call {
                function,
                args,
                kwargs,
            } => {
                release(function);
                release(args);
                release(kwargs);
            }
            Entry::Thread(object) => release(object),
            Entry::Coroutine(object) => {
                // SAFETY: the reference that the entry owned.
                let coroutine = unsafe { Bound::from_owned_ptr(py, object) };
                let closed = match coroutine.getattr_opt("close") {
                    Ok(Some(close)) => close.call0().map(drop),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = closed {
                    error.write_unraisable(py, Some(&coroutine));
                }
            }
        }
    }
}

/// Who is told how a task ended.
pub enum Report {
    /// An exception is reported as unraisable, like that of a bare thread.
    Unraisable,
    /// Kept for whoever asks the task: the main task, and `Task.result`.
    Outcome,
    /// The child of a fork, of which it is the only thread, ends with it.
    EndOfProcess,
    /// The group that it is a child of.
    Children(ChildrenRef),
}

/// The bindings' part of a task.
pub struct Payload(UnsafeCell<State>);

// SAFETY: a task is shared between threads only as something to unpark, which does not touch the
// payload. `State` is reached through `state`, whose callers are attached to the interpreter; its
// lock serialises them.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

/// What is known about a task. Only with the interpreter attached.
///
/// In the order of its fields: those that each switch asks for come first, so that it touches two lines
/// of the cache instead of six. Among 10,000 tasks each of them comes from memory.
#[repr(C)]
pub struct State {
    /// How it is resumed.
    pub kind: Kind,
    /// Whether it counts as a thread of its own (`get_ident`, `threading.local`).
    pub is_thread: bool,
    /// Whether `_thread._count()` counts it: it was started as a thread by the program.
    pub counted: bool,
    /// Whether a runner waits for it.
    pub daemon: bool,
    /// How often `native()` was entered and not left.
    pub native: u32,
    /// The greenlet that was running when the task parked; null while it runs, and for a coroutine
    /// that waits without a stack. Owned.
    pub frozen: Object,
    /// The asyncio loop that it runs: see `running_loop`. Owned; null for most.
    pub running_loop: Object,
    /// The innermost cancel scope it is in; `None` for a host's task, which is in the host's.
    pub scope: Option<ScopeRef>,
    /// The task's `contextvars` context. Owned; null for a host's task, which brings its own.
    pub context: Object,
    /// An exception that its next park raises: KeyboardInterrupt for the main task.
    pub interrupt: Option<PyErr>,
    /// A coroutine's stack, if its steps must go on where they began: it has made greenlets, which
    /// have that one for their parent. Null otherwise, and while it runs. Owned.
    pub stack: Object,
    /// What is still to do.
    pub entry: Entry,
    /// Its `threading.Thread` object, or what stands for it.
    pub thread: Option<Py<PyAny>>,
    /// The runner it belongs to, inherited by the threads it starts.
    pub home: Option<ChildrenRef>,
    /// How it ended, if somebody wants to know.
    pub outcome: Option<PyResult<Py<PyAny>>>,
    /// Who is told.
    pub report: Report,
    /// Who waits for its end. Boxed: most tasks are never joined.
    pub finished: Option<Arc<WaitQueue>>,
    /// A host's task: called when it is unparked. Taken by the call.
    pub resume: Option<Py<PyAny>>,
    /// A host's task: the portal around its coroutine.
    pub portal: Option<Py<crate::portal::Portal>>,
    /// A parked coroutine keeps itself alive: nobody else need know it.
    pub itself: Option<TaskRef>,
    /// The hooks for async generators that it has set. If there are any, `running_loop` is not null.
    pub generator_hooks: Option<Box<crate::running_loop::Hooks>>,
    /// Its dictionaries for `threading.local` objects, for removal at its end.
    pub locals: Vec<Py<PyAny>>,
    /// Its trace and profile functions, while another task's are installed.
    pub tracing: Option<Box<crate::tracing::Functions>>,
    /// How often such functions had been set for all threads when it was made.
    pub times_traced: u32,
    /// The buffered files whose methods it is in, by their addresses; see `file::buffered`.
    pub inside: Vec<usize>,
    /// For people.
    pub name: Option<Py<PyAny>>,
}

impl State {
    /// Takes the stack that the next step must run on, if it is a certain one.
    #[inline(always)]
    pub fn take_stack(&mut self) -> Option<Object> {
        if self.stack.is_null() {
            return None;
        }
        Some(std::mem::replace(&mut self.stack, null_mut()))
    }

    /// Whether it goes on by switching to the greenlet it is frozen with. A host's task does not: it
    /// goes on when the host steps it.
    #[inline(always)]
    pub fn is_frozen(&self) -> bool {
        !self.frozen.is_null() && self.kind != Kind::Host
    }
}

impl Payload {
    /// The payload of a task that is not linked to anything yet.
    pub fn new(kind: Kind, entry: Entry, context: Object) -> Self {
        Self(UnsafeCell::new(State {
            kind,
            frozen: null_mut(),
            stack: null_mut(),
            entry,
            context,
            scope: None,
            native: 0,
            is_thread: kind == Kind::Green,
            thread: None,
            counted: false,
            daemon: false,
            home: None,
            outcome: None,
            report: Report::Unraisable,
            finished: None,
            interrupt: None,
            resume: None,
            portal: None,
            itself: None,
            running_loop: null_mut(),
            generator_hooks: None,
            inside: Vec::new(),
            locals: Vec::new(),
            tracing: None,
            times_traced: crate::tracing::times_set_for_all(),
            name: None,
        }))
    }

    /// Where the task's state is, for whoever must not borrow it.
    pub fn as_ptr(&self) -> *mut State {
        self.0.get()
    }

    /// The task's state.
    ///
    /// The reference must not be kept across anything that may switch, run Python code or drop a
    /// Python object: take what is needed out of it, or put it in, and let go.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn state(&self) -> &mut State {
        // SAFETY: the interpreter's lock serialises everybody who calls this, and by the rule above
        // no two references are alive at once.
        unsafe { &mut *self.0.get() }
    }
}

/// The state of `task`; see [`Payload::state`] for the rule.
#[inline(always)]
#[allow(clippy::mut_from_ref)]
pub fn state(task: &TaskRef) -> &mut State {
    task.payload.state()
}

/// A reference that is dropped with the interpreter attached.
pub fn release(object: Object) {
    if !object.is_null() {
        // SAFETY: the caller gives up a reference it owns, and is attached.
        unsafe { ffi::Py_DECREF(object) };
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        let state = self.0.get_mut();
        let entry = std::mem::replace(&mut state.entry, Entry::None);
        let frozen = std::mem::replace(&mut state.frozen, null_mut());
        let context = std::mem::replace(&mut state.context, null_mut());
        let stack = std::mem::replace(&mut state.stack, null_mut());
        let running_loop = std::mem::replace(&mut state.running_loop, null_mut());
        // A task that ended has none of these. One that is dropped before its end (its scheduler
        // died with its thread, or a coroutine nobody will wake) may be dropped anywhere.
        if matches!(entry, Entry::None)
            && frozen.is_null()
            && context.is_null()
            && running_loop.is_null()
        {
            return;
        }
        Python::try_attach(|_py| {
            match entry {
                Entry::None => {}
                Entry::Call {
                    function,
                    args,
                    kwargs,
                } => {
                    release(function);
                    release(args);
                    release(kwargs);
                }
                Entry::Thread(object) | Entry::Coroutine(object) => release(object),
            }
            release(frozen);
            release(context);
            release(stack);
            release(running_loop);
        });
    }
}
