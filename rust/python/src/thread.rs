//! Green threads as Python sees them: starting, identity, joining.

use std::ptr::null_mut;
use std::sync::Arc;
use std::task::Poll;

use aevent_runtime::clock::NEVER;
use aevent_runtime::wait_queue::WaitQueue;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cancel_scope::CancelScope;
use crate::children::{self, Children};
use crate::errors::{self, Outcome};
use crate::finish::{self, Start};
use crate::portal;
use crate::raw::{self, Definition};
use crate::run_loop::{self, Driver};
use crate::stack::Object;
use crate::task::{Entry, Kind, Report, TaskRef, state};
use crate::wait::{self, Source, Wait};

/// The number that stands for the thread `task`: its address, which no OS thread can have.
fn ident(task: &TaskRef) -> usize {
    Arc::as_ptr(task) as usize
}

/// A handle of a task.
#[pyclass(module = "aevent._core", frozen, weakref)]
pub struct Task {
    task: TaskRef,
}

/// The end of a task.
struct Finished(TaskRef);

impl Source for Finished {
    fn is_ready(&self) -> bool {
        self.0.is_done()
    }

    fn queue(&self) -> Arc<WaitQueue> {
        finished_queue(&self.0)
    }
}

fn finished_queue(task: &TaskRef) -> Arc<WaitQueue> {
    state(task)
        .finished
        .get_or_insert_with(|| Arc::new(WaitQueue::new()))
        .clone()
}

#[pymethods]
impl Task {
    /// The thread identifier.
    #[getter]
    fn ident(&self) -> usize {
        ident(&self.task)
    }

    /// Whether it has not ended.
    fn is_alive(&self) -> bool {
        !self.task.is_done()
    }

    /// Waits for its end: a task parks, an OS thread blocks. False when `timeout` seconds are over.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.task.is_done() {
            return Ok(true);
        }
        let deadline = timeout.map_or(NEVER, wait::deadline_after);
        if deadline == NEVER && !run_loop::cooperates() && self.task.scheduler().is_mine() {
            return Err(errors::deadlock());
        }
        let mut waiter = finished_queue(&self.task).listen();
        wait::wait_until(py, deadline, false, |cx| {
            if self.task.is_done() {
                return Poll::Ready(());
            }
            waiter.poll(cx)
        })
    }

    /// A coroutine's wait for its end.
    fn _finished_wait(&self) -> Wait {
        Wait::for_source(Box::new(Finished(self.task.clone())))
    }

    /// What it returned; raises what it raised. Only for tasks whose outcome is kept.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match state(&self.task).outcome.take() {
            Some(result) => result,
            None if self.task.is_done() => Ok(py.None()),
            None => Err(PyRuntimeError::new_err("the task has not ended")),
        }
    }

    /// Has its next park, or the one it is in, raise `error`.
    fn interrupt(&self, error: Bound<'_, PyAny>) {
        if self.task.is_done() {
            return;
        }
        let former = state(&self.task)
            .interrupt
            .replace(PyErr::from_value(error));
        drop(former);
        self.task.unpark();
    }

    /// Cancels it.
    fn cancel(&self) {
        let scope = state(&self.task).scope.clone();
        if let Some(scope) = scope {
            for task in scope.cancel() {
                task.unpark_owned();
            }
        }
    }

    /// The name it was given, or what stands for it; `None` without one.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        state(&self.task)
            .name
            .as_ref()
            .map(|name| name.clone_ref(py))
    }

    /// The `threading.Thread` object, if it is one's.
    #[getter]
    fn thread(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        state(&self.task)
            .thread
            .as_ref()
            .map(|thread| thread.clone_ref(py))
    }

    #[setter]
    fn set_thread(&self, thread: Option<Py<PyAny>>) {
        let former = std::mem::replace(&mut state(&self.task).thread, thread);
        drop(former);
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Task>()
            .is_ok_and(|other| Arc::ptr_eq(&other.get().task, &self.task))
    }

    fn __hash__(&self) -> usize {
        ident(&self.task) >> 4
    }

    fn __repr__(&self) -> String {
        format!(
            "<aevent._core.Task {:#x}, {:?}, {}>",
            ident(&self.task),
            state(&self.task).kind,
            if self.task.is_done() {
                "finished"
            } else if self.task.is_parked() {
                "parked"
            } else {
                "ready"
            }
        )
    }
}

fn check_call(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyAny>,
    kwargs: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if !function.is_callable() {
        return Err(PyTypeError::new_err("first arg must be callable"));
    }
    if !args.is_instance_of::<PyTuple>() {
        return Err(PyTypeError::new_err("2nd arg must be a tuple"));
    }
    if kwargs.is_some_and(|kwargs| !kwargs.is_instance_of::<PyDict>()) {
        return Err(PyTypeError::new_err(
            "optional 3rd arg must be a dictionary",
        ));
    }
    Ok(())
}

/// `_thread.start_new_thread` in a task: a green thread that nobody waits for.
#[pyfunction]
#[pyo3(signature = (function, args, kwargs=None, /))]
pub fn start_new_thread(
    py: Python<'_>,
    function: Bound<'_, PyAny>,
    args: Bound<'_, PyAny>,
    kwargs: Option<Bound<'_, PyAny>>,
) -> PyResult<usize> {
    check_call(&function, &args, kwargs.as_ref())?;
    let home = children::home(py).ok_or_else(|| children::no_runner("starting a thread"))?;
    let context = finish::empty_context(py)?;
    let name = function.clone().unbind();
    let entry = Entry::Call {
        function: function.into_ptr(),
        args: args.into_ptr(),
        kwargs: kwargs.map_or(null_mut(), Bound::into_ptr),
    };
    let task = Children::start_thread(&home, entry, context, true)?;
    state(&task).name = Some(name);
    Ok(ident(&task))
}

/// Starts `thread`, a `threading.Thread`, as a green thread. With `function`, that is called
/// instead of the thread's `run`, and has to provide for its exceptions.
#[pyfunction]
#[pyo3(signature = (thread, daemon, function=None, context=None))]
pub fn start_thread(
    py: Python<'_>,
    thread: Bound<'_, PyAny>,
    daemon: bool,
    function: Option<Bound<'_, PyAny>>,
    context: Option<Bound<'_, PyAny>>,
) -> PyResult<Task> {
    let home =
        children::home(py).ok_or_else(|| children::no_runner("starting a thread in a task"))?;
    let context = match context {
        Some(context) => context.into_ptr(),
        None => finish::empty_context(py)?,
    };
    let entry = match function {
        Some(function) => Entry::Call {
            function: function.into_ptr(),
            args: PyTuple::empty(py).into_ptr(),
            kwargs: null_mut(),
        },
        None => Entry::Thread(thread.clone().into_ptr()),
    };
    let task = Children::start_thread(&home, entry, context, daemon)?;
    state(&task).thread = Some(thread.unbind());
    Ok(Task { task })
}

/// The identifier of the green thread that calls, or `None` outside one.
#[pyfunction]
pub fn thread_ident() -> Option<usize> {
    if run_loop::is_child_of_a_fork() {
        return None;
    }
    let task = run_loop::cooperating()?;
    state(task).is_thread.then(|| ident(task))
}

/// The `threading.Thread` object of the green thread that calls, or `None`.
#[pyfunction]
pub fn current_thread(py: Python<'_>) -> Option<Py<PyAny>> {
    if run_loop::is_child_of_a_fork() {
        return None;
    }
    let task = run_loop::cooperating()?;
    state(task)
        .thread
        .as_ref()
        .map(|thread| thread.clone_ref(py))
}

/// The running task, also under `native()`; `None` outside one.
#[pyfunction]
pub fn current_task() -> Option<Task> {
    run_loop::current().map(|task| Task { task })
}

/// Whether patched calls cooperate where this is called.
#[pyfunction]
pub fn in_task() -> bool {
    run_loop::cooperates()
}

/// The kind of the running task: "green", "coroutine", "host", or `None` outside one.
#[pyfunction]
pub fn task_kind() -> Option<&'static str> {
    run_loop::current().map(|task| match state(&task).kind {
        Kind::Green => "green",
        Kind::Coroutine => "coroutine",
        Kind::Host => "host",
    })
}

/// Counts `native()` up or down for the running task. False without a task.
#[pyfunction]
pub fn adjust_native(delta: i32) -> bool {
    run_loop::existing().is_some_and(|event_loop| event_loop.adjust_native(delta))
}

/// Sets how deep the running task is in `native()`, and returns how deep it was.
#[pyfunction]
pub fn replace_native(depth: u32) -> Option<u32> {
    run_loop::existing()?.replace_native(depth)
}

/// `time.sleep` in a task.
pub static SLEEP: Definition = Definition::one(c"sleep", sleep);

unsafe extern "C" fn sleep(_module: Object, seconds: Object) -> Object {
    // SAFETY: attached: Python calls us. The argument is borrowed from the caller.
    let (py, seconds) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, seconds))
    };
    raw::give(sleep_for(py, &seconds).map(|()| raw::none()))
}

#[inline(always)]
fn sleep_for(py: Python<'_>, seconds: &Bound<'_, PyAny>) -> Outcome<()> {
    let seconds = sleep_length(seconds)?;
    let (Some(event_loop), Some(task)) = (run_loop::existing(), run_loop::cooperating()) else {
        return Err(errors::no_task("sleep()").into());
    };
    if seconds <= 0.0 {
        if state(task).kind == Kind::Host {
            return Ok(portal::checkpoint(py, &task.clone())?);
        }
        wait::check(task)?;
        event_loop.yield_now(py)?;
        return match run_loop::cooperating() {
            Some(task) => wait::check(task),
            None => Ok(()),
        };
    }
    sleep_long(py, event_loop, task.clone(), seconds)
}

#[inline(never)]
fn sleep_long(
    py: Python<'_>,
    event_loop: &run_loop::Loop,
    task: TaskRef,
    seconds: f64,
) -> Outcome<()> {
    let deadline = wait::deadline_after(seconds);
    wait::park_until(py, event_loop, &task, deadline, false, |_| Poll::Pending).map(|_| ())
}

/// The integer 0, of which there is one. Borrowed: CPython keeps it as long as it lives.
#[inline(always)]
fn zero(py: Python<'_>) -> Object {
    use std::sync::atomic::{AtomicPtr, Ordering};
    static ZERO: AtomicPtr<pyo3::ffi::PyObject> = AtomicPtr::new(null_mut());
    let known = ZERO.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let zero = 0i64.into_pyobject(py).map_or(null_mut(), Bound::into_ptr);
    ZERO.store(zero, Ordering::Relaxed);
    zero
}

#[inline(always)]
fn sleep_length(seconds: &Bound<'_, PyAny>) -> PyResult<f64> {
    use pyo3::types::PyFloat;
    // Small integers are unique.
    if seconds.as_ptr() == zero(seconds.py()) {
        return Ok(0.0);
    }
    if let Ok(value) = seconds.cast_exact::<PyFloat>() {
        let value = pyo3::types::PyFloatMethods::value(value);
        if (0.0..1e9).contains(&value) {
            return Ok(value);
        }
    }
    sleep_length_slowly(seconds)
}

#[inline(never)]
fn sleep_length_slowly(seconds: &Bound<'_, PyAny>) -> PyResult<f64> {
    use pyo3::exceptions::{PyOverflowError, PyValueError};
    use pyo3::types::{PyFloat, PyInt};
    let value = if seconds.is_instance_of::<PyFloat>() || seconds.is_instance_of::<PyInt>() {
        seconds.extract::<f64>()?
    } else if let Ok(index) = seconds.call_method0("__index__") {
        index.extract::<f64>()?
    } else {
        return Err(PyTypeError::new_err(format!(
            "'{}' object cannot be interpreted as an integer",
            seconds.get_type().name()?
        )));
    };
    if value.is_nan() {
        return Err(PyValueError::new_err("Invalid value NaN (not a number)"));
    }
    if value < 0.0 {
        return Err(PyValueError::new_err("sleep length must be non-negative"));
    }
    if value > 9_223_372_036.0 {
        return Err(PyOverflowError::new_err(
            "timestamp too large to convert to C _PyTime_t",
        ));
    }
    Ok(value)
}

/// Lets other tasks run, and raises if the running one is cancelled.
#[pyfunction]
pub fn checkpoint(py: Python<'_>) -> PyResult<()> {
    let Some(task) = run_loop::current() else {
        return Err(errors::no_task("checkpoint()"));
    };
    if state(&task).kind == Kind::Host {
        return portal::checkpoint(py, &task);
    }
    wait::check(&task)?;
    let event_loop = run_loop::existing().expect("a task runs on a loop");
    event_loop.yield_now(py)?;
    Ok(wait::check(&task)?)
}

/// Raises if the running task is cancelled.
#[pyfunction]
pub fn checkpoint_if_cancelled() -> PyResult<()> {
    match run_loop::current() {
        Some(task) => Ok(wait::check(&task)?),
        None => Ok(()),
    }
}

/// `await Checkpoint()` in a native task: lets others run, raises if cancelled before or after.
#[pyclass(module = "aevent._core")]
pub struct Checkpoint {
    yielded: bool,
}

#[pymethods]
impl Checkpoint {
    #[new]
    fn new() -> Self {
        Self { yielded: false }
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&mut self) -> PyResult<Option<bool>> {
        let Some(task) = run_loop::current() else {
            return Err(errors::no_task("checkpoint()"));
        };
        wait::check(&task)?;
        if self.yielded {
            return Ok(None);
        }
        self.yielded = true;
        Ok(Some(true))
    }
}

/// `await Sleep(deadline)` in a native task, `deadline` in seconds of `time.monotonic()`.
#[pyclass(module = "aevent._core")]
pub struct Sleep {
    deadline: u64,
    timer: Option<aevent_runtime::timers::TimerKey>,
}

#[pymethods]
impl Sleep {
    #[new]
    fn new(deadline: f64) -> Self {
        let deadline = if deadline >= 9e9 {
            NEVER
        } else {
            (deadline.max(0.0) * 1e9) as u64
        };
        Self {
            deadline,
            timer: None,
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(task) = run_loop::current() else {
            return Err(errors::no_task("sleep()"));
        };
        let scheduler = task.scheduler().clone();
        let result = wait::check(&task).map_err(PyErr::from);
        let over = result.is_err()
            || (self.deadline != NEVER && aevent_runtime::clock::now() >= self.deadline);
        if over {
            if let Some(timer) = self.timer.take() {
                scheduler.forget_deadline(timer);
            }
            return result.map(|()| None);
        }
        if self.timer.is_none() && self.deadline != NEVER {
            self.timer = Some(scheduler.unpark_at(self.deadline, task));
        }
        Ok(Some(py.None()))
    }
}

/// Drives `awaitable` from synchronous code in a task whose coroutines we step or a host steps.
#[pyfunction]
pub fn await_here(py: Python<'_>, iterator: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let Some(task) = run_loop::current() else {
        return Err(errors::no_task("aevent.await_()"));
    };
    if state(&task).kind == Kind::Host {
        return portal::await_in_host(py, iterator);
    }
    portal::await_natively(py, iterator)
}

/// Runs `function(*args)` or a coroutine as the main task of the native loop, and returns its task
/// when it has ended. `children` is the runner's.
#[pyfunction]
pub fn run_native(
    py: Python<'_>,
    function: Option<Bound<'_, PyAny>>,
    args: Bound<'_, PyTuple>,
    coroutine: Option<Bound<'_, PyAny>>,
    children: &Children,
) -> PyResult<Py<PyAny>> {
    let event_loop = run_loop::obtain(py)?;
    if event_loop.driver() != Driver::None {
        return Err(PyRuntimeError::new_err(
            "aevent.run() was called in an OS thread whose loop is running already. Call the \
             function directly, spawn it, or run it in a thread of its own.",
        ));
    }
    let (kind, entry) = match (function, coroutine) {
        (Some(function), _) => (
            Kind::Green,
            Entry::Call {
                function: function.into_ptr(),
                args: args.into_ptr(),
                kwargs: null_mut(),
            },
        ),
        (None, Some(coroutine)) => (Kind::Coroutine, Entry::Coroutine(coroutine.into_ptr())),
        (None, None) => return Err(PyTypeError::new_err("nothing to run")),
    };
    let context = finish::copied_context(py)?;
    let task = finish::spawn(
        event_loop,
        Start {
            entry,
            kind,
            context,
            report: Report::Outcome,
            parent: Some(&children.shared.scope()),
            home: Some(children.shared.clone()),
        },
    );
    // The main task is the main thread to whoever asks.
    state(&task).is_thread = false;
    let former = event_loop.set_main(Some(task.clone()));
    let result = event_loop.run(py, &task);
    drop(event_loop.set_main(former));
    event_loop.drop_idle_stacks(py);
    result?;
    let outcome = state(&task).outcome.take();
    outcome.unwrap_or_else(|| Ok(py.None()))
}

/// Starts `function(*args)` as the main green thread of a runner that a host drives.
#[pyfunction]
pub fn start_main(
    py: Python<'_>,
    function: Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    children: &Children,
) -> PyResult<(Task, CancelScope)> {
    let event_loop = run_loop::obtain(py)?;
    let context = finish::copied_context(py)?;
    let task = finish::spawn(
        event_loop,
        Start {
            entry: Entry::Call {
                function: function.into_ptr(),
                args: args.into_ptr(),
                kwargs: null_mut(),
            },
            kind: Kind::Green,
            context,
            report: Report::Outcome,
            parent: Some(&children.shared.scope()),
            home: Some(children.shared.clone()),
        },
    );
    state(&task).is_thread = false;
    drop(event_loop.set_main(Some(task.clone())));
    let scope = state(&task).scope.clone().expect("a new task has a scope");
    Ok((
        Task { task },
        CancelScope::of_task(scope, event_loop.scheduler.clone()),
    ))
}

/// The thread's loop is driven by `host`, an adapter; `None` ends that.
#[pyfunction]
#[pyo3(signature = (host))]
pub fn set_host(py: Python<'_>, host: Option<Py<PyAny>>) -> PyResult<()> {
    run_loop::obtain(py)?.set_host(host)
}

/// The adapter that drives the thread's loop.
#[pyfunction]
pub fn get_host(py: Python<'_>) -> Option<Py<PyAny>> {
    run_loop::existing()?.host(py)
}

/// The descriptor that a host waits for, readable while there is something to do.
#[pyfunction]
pub fn loop_fd(py: Python<'_>) -> PyResult<i32> {
    Ok(run_loop::obtain(py)?.scheduler.fd())
}

/// One turn for the host: see `Backend`.
#[pyfunction]
pub fn tick(py: Python<'_>) -> PyResult<bool> {
    run_loop::obtain(py)?.tick(py)
}

/// Who drives the thread's loop: "native", "host" or `None`.
#[pyfunction]
pub fn driver() -> Option<&'static str> {
    match run_loop::existing()?.driver() {
        Driver::Native => Some("native"),
        Driver::Host => Some("host"),
        Driver::None => None,
    }
}

/// Delivers an exception to the main task: for signal handlers. False if there is none.
#[pyfunction]
pub fn interrupt_main(error: Bound<'_, PyAny>) -> bool {
    let Some(event_loop) = run_loop::existing() else {
        return false;
    };
    match event_loop.main() {
        Some(main) if !main.is_done() => {
            event_loop.interrupt(PyErr::from_value(error));
            event_loop.scheduler.notify();
            true
        }
        _ => false,
    }
}

/// Whether the running task is the main one, or no task runs.
#[pyfunction]
pub fn is_main_task() -> bool {
    let Some(event_loop) = run_loop::existing() else {
        return true;
    };
    match (run_loop::current(), event_loop.main()) {
        (Some(current), Some(main)) => Arc::ptr_eq(&current, &main),
        _ => false,
    }
}

/// Figures about the thread's loop, for people and tests.
#[pyfunction]
pub fn statistics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let statistics = PyDict::new(py);
    if let Some(event_loop) = run_loop::existing() {
        statistics.set_item("ready", event_loop.scheduler.ready_len())?;
        statistics.set_item("timers", event_loop.scheduler.timers_len())?;
        statistics.set_item("stacks", event_loop.stacks())?;
    }
    Ok(statistics)
}

/// For `os.register_at_fork`.
#[pyfunction]
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    run_loop::after_fork_in_child(py)
}

/// The running task's threads belong to `children` from now on. Returns whose they were.
#[pyfunction]
#[pyo3(signature = (children))]
pub fn set_home(children: Option<&Children>) -> Option<Children> {
    let task = run_loop::current()?;
    let home = children.map(|children| children.shared.clone());
    let former = std::mem::replace(&mut state(&task).home, home);
    former.map(Children::of)
}

/// Has the native loop wake when a signal handler writes to the pipe that `descriptor` reads; -1
/// ends that.
#[pyfunction]
pub fn watch_signals(py: Python<'_>, descriptor: i32) -> PyResult<()> {
    run_loop::obtain(py)?
        .scheduler
        .watch_signals(descriptor)
        .map_err(|error| errors::from_io(py, &error))
}
