"""The bindings of aevent's scheduler: what each name promises to the Python code above it.

Unless a docstring says otherwise:

- Times are in seconds; deadlines are points of `time.monotonic()`, and infinite means none.
- A call that *parks* suspends the running task until what it waits for has happened. It raises
  `Cancelled` if a cancel scope around the task is cancelled, before or during the wait, and in the
  main task what a signal handler raises. In a host's task the host raises its own exception instead.
- "In a task" means: in a task, and not under `aevent.native()`.
- There is one scheduler for each OS thread. What is called thread-safe may be used from any OS
  thread; everything else only from the one whose scheduler it belongs to.
"""

import _socket
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from types import FrameType, GenericAlias, ModuleType, TracebackType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, final

from typing_extensions import Buffer, Self, disjoint_base

__all__ = [
    "BoundedSemaphore",
    "BrokenResourceError",
    "BusyResourceError",
    "CancelScope",
    "Cancelled",
    "CapacityLimiter",
    "Checkpoint",
    "Children",
    "ClosedResourceError",
    "Condition",
    "EndOfStream",
    "Event",
    "HostWaker",
    "Lock",
    "LoopWatch",
    "Member",
    "MemoryReceiveChannel",
    "MemorySendChannel",
    "ModuleView",
    "PatchedFunction",
    "PatchedMethod",
    "Portal",
    "RLock",
    "RunFinishedError",
    "Semaphore",
    "SimpleQueue",
    "Sleep",
    "SocketCall",
    "Task",
    "TaskEvent",
    "TaskGroup",
    "Wait",
    "WouldBlock",
    "_set_running_loop",
    "adjust_native",
    "adopt_local",
    "after_fork_in_child",
    "all_tasks",
    "ask_for_tick",
    "await_here",
    "breathe",
    "buffered_method",
    "call_handling",
    "checkpoint",
    "checkpoint_if_cancelled",
    "clock_offset_ns",
    "current_effective_deadline",
    "current_task",
    "current_thread",
    "current_time",
    "current_time_ns",
    "deadline_here",
    "deliver_signal",
    "descriptor_wait",
    "driver",
    "file_io_methods",
    "find_word",
    "forest",
    "get_host",
    "give_up_clock",
    "hold_preemption",
    "in_task",
    "is_fifo",
    "jump_clock",
    "keep_generator_hooks",
    "keep_running_loops",
    "lend_context",
    "local",
    "loop_fd",
    "main_task",
    "makes_coroutine",
    "notify_closing",
    "offload",
    "on_handler_failure",
    "open_fifo",
    "open_memory_channel",
    "open_signalfd",
    "opener",
    "os_close",
    "os_read",
    "os_readv",
    "os_write",
    "os_writev",
    "owner_ident",
    "preempt",
    "print_exception",
    "print_ignored",
    "queue_methods",
    "referrers",
    "replace_coroutine",
    "replace_native",
    "run_native",
    "runner_variable",
    "separate_profilers",
    "set_buffered_owner",
    "set_class_attribute",
    "set_clock",
    "set_group_hooks",
    "set_home",
    "set_host",
    "set_loop_name_variable",
    "set_main",
    "set_preemption",
    "set_preemption_points",
    "set_signal_handler",
    "set_thread_hooks",
    "set_tracing_functions",
    "set_wait_on_host",
    "setprofile",
    "setprofile_all_threads",
    "settrace",
    "settrace_all_threads",
    "shielded_checkpoint",
    "shortcut",
    "signal_handler",
    "sleep",
    "socket_call",
    "socket_closing",
    "socket_connect",
    "socket_io_methods",
    "socket_opened",
    "socket_recv",
    "socket_recv_into",
    "socket_send",
    "socket_sendall",
    "socket_writer_method",
    "ssl_call",
    "ssl_read",
    "ssl_write",
    "start_main",
    "start_new_thread",
    "start_thread",
    "start_worker",
    "statistics",
    "suspended_frame",
    "take_context_back",
    "task_kind",
    "task_of_portal",
    "thread_count",
    "thread_ident",
    "tick",
    "wait_child",
    "wait_descriptors",
    "wait_flock",
    "wait_for_handler",
    "wait_quiet",
    "wait_record_lock",
    "wait_until_held_up",
    "watch_buffered",
    "watch_signals",
    "watches_changed",
]

_P = ParamSpec("_P")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_T_contra = TypeVar("_T_contra", contravariant=True)

# --- Cancellation ---------------------------------------------------------------------------------

class Cancelled(BaseException):
    """Raised in a task where it blocks when a cancel scope around it was cancelled.

    Raised again at each blocking call until the scope is left (level-triggered, as in trio), so
    swallowing it achieves nothing. The scope that caused it absorbs it.
    """

class WouldBlock(Exception):
    """Raised by the X_nowait methods when X would have to wait."""

class ClosedResourceError(Exception):
    """Raised when something is used that this program has closed, perhaps meanwhile."""

class BrokenResourceError(Exception):
    """Raised when something cannot be used any more for a reason outside: the other end is gone."""

class BusyResourceError(Exception):
    """Raised when two tasks use something at once that only one can."""

class EndOfStream(Exception):
    """Raised by receiving when everything was received and the other end is closed."""

class RunFinishedError(RuntimeError):
    """Raised when a loop is called into that has ended."""

@disjoint_base
class CancelScope:
    """A part of a task that can be cancelled as a whole, for async and synchronous code alike.

    A plain context manager, entered once. Semantics `trio.CancelScope`'s. In a host's task it is a
    handle of one of the host's own scopes, and what the host raises is the host's exception. The
    scope that `TaskGroup.spawn` returns is that of the child, entered already; it can be awaited,
    which gives the scope at once.

    `deadline` is when the body is cancelled by itself; NaN raises ValueError. `relative_deadline` says
    so in seconds after the scope is entered. With `shield`, no cancellation from outside reaches the
    body.
    """

    def __new__(
        cls, *, deadline: float = ..., relative_deadline: float = ..., shield: bool = False
    ) -> Self: ...
    def _fail_at_deadline(self) -> Self:
        """Has it raise TimeoutError if its own deadline ends the body. Returns itself."""
    def _set_beyond(self, deadline: Callable[[], float] | None) -> None:
        """What else has a deadline for what runs in it, and says so when it is called.

        It is for somebody else to cancel the scope then.
        """
    @staticmethod
    def _of_host(host: object) -> CancelScope:
        """A handle of a host's scope (a `HostScope`) that is entered already."""
    def cancel(self, reason: object = None) -> None:
        """Cancels everything in the scope. Idempotent; may come before the scope is entered."""
    @property
    def cancel_called(self) -> bool:
        """Whether `cancel` was called or the deadline has passed."""
    @property
    def _cancel_requested(self) -> bool:
        """Whether `cancel` was called, rather than that the deadline came."""
    @property
    def cancelled_caught(self) -> bool:
        """Whether the scope has absorbed a cancellation. Known once it is left."""
    @property
    def deadline(self) -> float:
        """When the body is cancelled. May be moved; a point in the past cancels at once.

        RuntimeError if it is relative to entering the scope, and that has not happened.
        """
    @deadline.setter
    def deadline(self, deadline: float) -> None: ...
    @property
    def relative_deadline(self) -> float:
        """The deadline in seconds from now; before the scope is entered, from then.

        RuntimeError if it is not entered and has an absolute deadline.
        """
    @relative_deadline.setter
    def relative_deadline(self, seconds: float) -> None: ...
    @property
    def is_relative(self) -> bool | None:
        """Whether its deadline is relative to entering it; `None` once it is entered."""
    @property
    def shield(self) -> bool:
        """Whether the body is protected from cancellation from outside. May be changed."""
    @shield.setter
    def shield(self, shield: bool) -> None: ...
    def __enter__(self) -> Self:
        """RuntimeError if it was entered before, or outside a task."""
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Absorbs the exception of its own cancellation, also out of an exception group.

        RuntimeError if scopes are misnested.
        """
    def __await__(self) -> Generator[Any, Any, Self]: ...

def current_effective_deadline() -> float:
    """The deadline that applies to the running task of ours.

    Infinite if there is none; minus infinity if the task is cancelled already. Not for a host's
    tasks, whose deadline the host knows.
    """

def deadline_here() -> Callable[[], float]:
    """Tells, when called, what `current_effective_deadline` would in the running task of ours.

    What counts is the scope that it is in now. In this OS thread only.
    """

# --- Waiting --------------------------------------------------------------------------------------

@final
class Wait:
    """One wait: for a lock, a permit, a notification, the end of a task. Made by other objects.

    Takes its place in the queue when it is made or polled first. Native tasks await it, hosts' tasks
    poll it with a `HostWaker`, and synchronous code calls `block`. Dropping it gives the wait up.
    """

    def poll(self, waker: HostWaker | None = None) -> bool:
        """Whether the wait is over; if not, `waker` is woken when it may be."""
    def result(self) -> Any:
        """What the wait was for, once it is over, once. Raises what went wrong."""
    def cancel(self) -> None:
        """Gives the wait up; what was handed over and not reported goes to the next who waits."""
    def block(self, timeout: float | None = None) -> bool:
        """Parks the running task, or blocks an OS thread with the interpreter released.

        False when `timeout` seconds are over.
        """
    def __await__(self) -> Generator[Any, Any, Any]:
        """For tasks of the native backend; RuntimeError elsewhere. No checkpoint if it is over."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any:
        """A step, as of a coroutine: a task may run nothing else."""
    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Gives the wait up and raises what is thrown in."""
    def close(self) -> None:
        """Gives the wait up."""

def set_wait_on_host(function: Callable[[Wait], Coroutine[Any, Any, Any]]) -> None:
    """What awaits a wait outside native tasks, as a checkpoint. The first one counts."""

@final
class Checkpoint:
    """`await Checkpoint()` lets other tasks run. For native tasks; raises `Cancelled`."""

    def __new__(cls) -> Self: ...
    def __await__(self) -> Generator[Any, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bool | None: ...
    def send(self, value: None, /) -> bool | None: ...
    def throw(self, error: BaseException, /) -> None: ...
    def close(self, /) -> None: ...

@final
class Sleep:
    """`await Sleep(deadline)` sleeps until `deadline`. For native tasks; raises `Cancelled`."""

    def __new__(cls, deadline: float, /) -> Self: ...
    def __await__(self) -> Generator[Any, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> None: ...
    def send(self, value: None, /) -> None: ...
    def throw(self, error: BaseException, /) -> None: ...
    def close(self, /) -> None: ...

@final
class HostWaker:
    """What an adapter holds to make a host's task wait until one of ours is unparked.

    See `Backend.park`. The constructor makes one for a host's coroutine that waits without a portal.
    """

    def __new__(cls) -> Self: ...
    def arm(self, callback: Callable[[], object]) -> bool:
        """Has `callback()` called once, in a tick of the scheduler's thread, when it is woken.

        False if it was woken already: then nothing is called, and the caller does not wait.
        """
    def disarm(self) -> None:
        """The caller waits no more, for whatever reason."""
    def wake(self) -> None:
        """Wakes it. Thread-safe, idempotent."""

def wait_descriptors(
    descriptors: list[tuple[int, bool, bool]],
    timeout: float | None = None,
    urgent: list[int] | None = None,
) -> bool:
    """Parks until one of `descriptors` (number, for reading, for writing) may be ready: true.

    Those of them that are in `urgent` may also be ready with urgent data. False when `timeout` seconds
    are over. The caller asks the kernel what is ready. A regular file
    counts as ready at once, and so does a number that is not open: the caller's own call says what
    is wrong with it. RuntimeError outside a task.
    """

def current_time() -> float:
    """The time of the calling OS thread's loop, in which deadlines are: `time.monotonic()`'s, unless
    `set_clock` was called in that thread."""

def current_time_ns() -> int:
    """`current_time` in nanoseconds."""

def clock_offset_ns() -> int:
    """By how much the calling OS thread's loop is ahead of `time.monotonic()`, in nanoseconds."""

def set_clock(rate: float, autojump_threshold: float | None = None) -> None:
    """From now on, `rate` seconds of the calling OS thread's loop pass in a real one. For tests.

    When nobody has had anything to do for `autojump_threshold` real seconds, the clock jumps to the
    next deadline; `None`: never. Native loops only. ValueError for what is negative or too large.
    """

def jump_clock(seconds: float) -> None:
    """Sets the clock of the calling OS thread's loop forward. Whose deadlines have come is ready."""

def give_up_clock() -> None:
    """The time of the calling OS thread's loop is the real one again, at once.

    Only when nothing has a deadline: those that were set in the loop's own time are too late now.
    """

def wait_quiet(cushion: float = 0.0) -> Wait:
    """A wait until nobody else has had anything to do for `cushion` real seconds. Native loops only.

    Those with the shortest cushion are told first, together.
    """

def shortcut(function: _Function) -> _Function:
    """`function`, a `checkpoint`, `sleep`, `sleep_forever` or `wait`, without its own coroutine.

    In a task of the native backend a call returns what the coroutine would await; elsewhere
    `function` is called. Its attributes are the function's.
    """

def shielded_checkpoint() -> Wait:
    """As `Checkpoint`, but raises nothing, and leaves that to the next."""

def descriptor_wait(fd: int, write: bool) -> Wait:
    """A wait until a descriptor may be readable, or writable. For async tasks.

    Raises OSError if it cannot be waited for, and ClosedResourceError if it is closed meanwhile.
    """

def notify_closing(fd: int) -> None:
    """Before a descriptor is closed: whoever waits for it, in any OS thread, is woken. Thread-safe."""

def sleep(seconds: float, /) -> None:
    """`time.sleep` in a task: parks for `seconds`; with 0, lets other tasks run.

    Accepts and refuses what CPython's `time.sleep` does (TypeError, ValueError, OverflowError).
    RuntimeError outside a task.
    """

def checkpoint() -> None:
    """Lets other tasks run, and raises if the running one is cancelled. From synchronous code.

    RuntimeError outside a task; works under `native()`.
    """

def breathe() -> None:
    """Lets others run if the running green thread has had its time slice."""

def checkpoint_if_cancelled() -> None:
    """Raises if the running task is cancelled or interrupted. Does nothing outside a task."""

def offload(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Calls `function(*args, **kwargs)` in a real OS thread while the running task parks.

    For C code that blocks. The call sees a copy of the caller's context and has its signal mask.
    Raises what the function raises. Cancellation abandons it: if it has begun, it runs to its end
    and its result is dropped; if it has not, it is not made. Outside a task the function is called
    right here.
    """

def start_worker(function: Callable[[], object]) -> None:
    """Calls `function()` in a real OS thread, in a copy of the caller's context, and does not wait.

    There are as many threads as there are calls. An exception is reported as `sys.unraisablehook`
    does.
    """

# --- Locks and queues -----------------------------------------------------------------------------
# Each can be waited for by green threads, async tasks and OS threads at the same time. Who came
# first is served first, and a release hands over to whoever has waited longest. The methods are
# thread-safe. The async methods are checkpoints; aevent/_sync.py attaches them.

@final
class Lock:
    """`threading.Lock`. Semantics CPython's: whoever likes may release it."""

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Takes it; whether it did. Waits for `timeout` seconds at most, -1 for any time.

        RuntimeError if an OS thread would wait for ever for a task that only itself could run.
        """
    def acquire_lock(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """`acquire`, by its old name."""
    def release(self) -> None:
        """Hands it to the next who waits, or unlocks it. RuntimeError if it is not locked."""
    def release_lock(self) -> None:
        """`release`, by its old name."""
    def locked(self) -> bool:
        """Whether anybody holds it."""
    def locked_lock(self) -> bool:
        """`locked`, by its old name."""
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def async_acquire(self) -> bool:
        """Takes it, waiting if need be. Cancellation leaves it untaken."""
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def _acquire_wait(self) -> Wait:
        """A wait for it. When it is over, the lock is the waiter's."""
    def _waiters(self) -> int:
        """How many wait for it."""
    def _at_fork_reinit(self) -> None:
        """In the child of a fork: unlocked, and nobody waits."""

@disjoint_base
class RLock:
    """`threading.RLock`. Semantics CPython's; its owner is a task, or an OS thread outside tasks."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """As `Lock.acquire`; at once if the caller owns it already."""
    def release(self) -> None:
        """Once for each `acquire`. RuntimeError if the caller does not own it."""
    def locked(self) -> bool:
        """Whether anybody owns it."""
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def async_acquire(self) -> bool:
        """Takes it, waiting if need be. Cancellation leaves it untaken."""
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def _is_owned(self) -> bool:
        """Whether the caller owns it."""
    def _recursion_count(self) -> int:
        """How often the caller has acquired it."""
    def _release_save(self) -> tuple[int, int]:
        """Releases it wholly, for a condition's wait; the result is for `_acquire_restore`."""
    def _acquire_restore(self, state: tuple[int, int]) -> None:
        """Takes it again as it was, whatever happens: neither cancellation nor interrupt ends it."""
    def _acquire_wait(self) -> Wait | None:
        """A wait for it, to be followed by `_acquired_by_wait`; `None` if the caller owns it."""
    def _acquired_by_wait(self, saved: tuple[int, int] | None = None) -> None:
        """The wait is over: the caller owns it, as often as `saved` by `_release_save` says."""
    def _at_fork_reinit(self) -> None:
        """In the child of a fork: unlocked, and nobody waits."""

@disjoint_base
class Condition:
    """`threading.Condition`. Semantics CPython's.

    In addition, a waiter that is cancelled after it was notified passes the notification on.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def __init__(self, lock: Any = None) -> None: ...
    @property
    def acquire(self) -> Callable[..., bool]:
        """The lock's own."""
    @property
    def release(self) -> Callable[[], None]:
        """The lock's own."""
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock, waits for a notification and takes the lock again, whatever happens.

        False when `timeout` seconds are over. RuntimeError if the lock is not the caller's.
        """
    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Waits until `predicate()` is true, or `timeout` seconds are over; what it said last."""
    def notify(self, n: int = 1) -> None:
        """Wakes the `n` who have waited longest. RuntimeError if the lock is not the caller's."""
    def notify_all(self) -> None:
        """Wakes everybody who waits. RuntimeError if the lock is not the caller's."""
    def notifyAll(self) -> None:
        """Deprecated: `notify_all`, by its old name."""
    async def async_acquire(self) -> bool:
        """Takes the lock."""
    async def async_wait(self) -> bool:
        """As `wait`. The lock is taken again also when the wait is cancelled."""
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    @property
    def _lock(self) -> Any: ...
    def _is_owned(self) -> bool:
        """Whether the lock is the caller's; for a plain lock, whether anybody holds it."""
    def _release_save(self) -> object: ...
    def _acquire_restore(self, state: object) -> None: ...
    def _notified_wait(self) -> Wait:
        """A wait for a notification, begun now. The caller releases and takes the lock."""
    def _waiting(self) -> int:
        """How many wait."""
    def _at_fork_reinit(self) -> None:
        """In the child of a fork: nobody waits, and the lock is unlocked."""

@disjoint_base
class TaskEvent:
    """An event for the async tasks of one native loop. Semantics `trio.Event`'s. Not thread-safe.

    Whether a task is told or cancelled first decides: once told, its wait does not raise `Cancelled`,
    and one that is cancelled already is not told.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def is_set(self) -> bool:
        """Whether it is set."""
    def set(self) -> None:
        """Sets it, and tells everybody who waits."""
    def wait(self) -> Coroutine[Any, Any, None]:
        """Waits until it is set. A checkpoint, also if it is."""
    def _waiters(self) -> int:
        """How many wait for it."""

@disjoint_base
class Event:
    """`threading.Event`. Semantics CPython's.

    Who waited when it was set has seen it, even if it is cleared before he runs.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Takes nothing (TypeError); a subclass's may."""
    def is_set(self) -> bool:
        """Whether it is set."""
    def isSet(self) -> bool:
        """Deprecated: `is_set`, by its old name."""
    def set(self) -> None:
        """Sets it and wakes everybody who waits."""
    def clear(self) -> None:
        """Resets it."""
    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set: true. False when `timeout` seconds are over."""
    async def async_wait(self) -> bool:
        """Waits until it is set."""
    def _wait(self) -> Wait:
        """A wait until it is set."""
    def _at_fork_reinit(self) -> None:
        """In the child of a fork: nobody waits."""

@disjoint_base
class Semaphore:
    """`threading.Semaphore`. Semantics CPython's. ValueError for a negative `value`."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, value: int = 1) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Takes a permit; whether it did. Waits for `timeout` seconds at most."""
    def release(self, n: int = 1) -> None:
        """Gives `n` permits back. ValueError if `n` is less than one."""
    def __enter__(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def async_acquire(self) -> bool:
        """Takes a permit, waiting if need be. Cancellation leaves it untaken."""
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    @property
    def _value(self) -> int:
        """How many permits are free."""
    def _acquire_wait(self) -> Wait:
        """A wait for a permit. When it is over, the permit is the waiter's."""
    def _waiters(self) -> int:
        """How many wait."""

@disjoint_base
class BoundedSemaphore(Semaphore):
    """`threading.BoundedSemaphore`: at most as many permits are free as it began with."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, value: int = 1) -> None: ...
    def release(self, n: int = 1) -> None:
        """Gives `n` permits back. ValueError if that is more than were taken."""
    @property
    def _initial_value(self) -> int: ...

@disjoint_base
class SimpleQueue(Generic[_T]):
    """`queue.SimpleQueue`. Semantics CPython's: unbounded, `put` never waits and is reentrant.

    An item that is put while somebody waits is his at once; `empty` does not count it.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Takes nothing (TypeError); a subclass's may."""
    def put(self, item: _T, block: bool = True, timeout: float | None = None) -> None:
        """Appends an item. `block` and `timeout` are there for the sake of `Queue.put`."""
    def put_nowait(self, item: _T) -> None:
        """Appends an item."""
    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Takes the first item, waiting if need be. `queue.Empty` when `timeout` is over."""
    def get_nowait(self) -> _T:
        """Takes the first item. `queue.Empty` if there is none."""
    def empty(self) -> bool:
        """Whether there is nothing to take."""
    def qsize(self) -> int:
        """How many items there are to take."""
    async def async_get(self) -> _T:
        """Takes the first item, waiting if need be. Cancellation loses no item."""
    async def async_put(self, item: _T) -> None:
        """Appends an item; never waits."""
    def _get_wait(self) -> Wait:
        """A wait for an item, which is its result."""
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...

@final
class CapacityLimiter:
    """So many tokens, each lent to a known borrower. Semantics `trio.CapacityLimiter`'s.

    `async with limiter:` in async code, `with limiter:` in synchronous code, on the same object;
    first come, first served. The borrower is the running task, or the OS thread, unless another
    object is named: one that is hashable, and has no token of this limiter. `total_tokens` is an
    integer, 0 included, or `math.inf`; it may be changed, and nobody loses a token by that.
    Thread-safe.
    """

    def __new__(cls, total_tokens: float) -> Self: ...
    @property
    def total_tokens(self) -> float:
        """How many there are. TypeError, ValueError for what is no number of tokens."""
    @total_tokens.setter
    def total_tokens(self, value: float) -> None: ...
    @property
    def borrowed_tokens(self) -> int:
        """How many are lent."""
    @property
    def available_tokens(self) -> float:
        """How many are not. Negative if `total_tokens` was made smaller than what is lent."""
    def acquire_nowait(self) -> None:
        """Borrows a token. `WouldBlock` if none is free; RuntimeError if the caller has one."""
    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """As `acquire_nowait`, for `borrower`."""
    async def acquire(self) -> None:
        """Borrows a token, waiting if need be. RuntimeError if the caller has one. A checkpoint."""
    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """As `acquire`, for `borrower`. A checkpoint."""
    def sync_acquire(self) -> None:
        """`acquire` for synchronous code: a green thread parks, an OS thread blocks."""
    def release(self) -> None:
        """Gives the caller's token back. RuntimeError if he has none."""
    def release_on_behalf_of(self, borrower: object) -> None:
        """Gives back the token of `borrower`. RuntimeError if he has none."""
    def statistics(self) -> Any:
        """How it is used at the moment; attached by aevent/_limiter.py."""
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    def _numbers(self) -> tuple[int, float, set[object], int]:
        """Tokens lent, tokens, borrowers, and how many wait."""

def open_memory_channel(
    max_buffer_size: float,
) -> tuple[MemorySendChannel[Any], MemoryReceiveChannel[Any]]:
    """The two ends of a channel between tasks. Semantics `trio.open_memory_channel`'s.

    `max_buffer_size` is how many values may be sent and not received: an integer, 0 included, or
    `math.inf`. `send` waits while there are as many. Ends are thread-safe and may be used by async
    tasks, green threads and OS threads; an end that is collected as garbage is closed.
    """

@final
class MemorySendChannel(Generic[_T_contra]):
    """The end of a memory channel that values are put in.

    `send` and `aclose` are for async code, `sync_send` and `close` for any other.
    """

    async def send(self, value: _T_contra) -> None:
        """Sends a value, waiting for room if need be. Cancellation leaves it unsent. A checkpoint.

        `BrokenResourceError` if every receiving end is closed, `ClosedResourceError` if this one is, both
        also during the wait.
        """
    def sync_send(self, value: _T_contra) -> None:
        """`send` for synchronous code: a green thread parks, an OS thread blocks."""
    def send_nowait(self, value: _T_contra) -> None:
        """`send`, but `WouldBlock` if there is no room."""
    def clone(self) -> MemorySendChannel[_T_contra]:
        """One sending end more. Receivers come to an end when all of them are closed."""
    def close(self) -> None:
        """Closes this end. Who waits in its `send` is told. Idempotent."""
    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
    def statistics(self) -> Any:
        """How the channel is used at the moment; attached by aevent/_channels.py."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    def _numbers(self) -> tuple[int, float, int, int, int, int]:
        """Values in the buffer, its size, open ends to send and to receive, waiting likewise."""
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...

@final
class MemoryReceiveChannel(Generic[_T_co]):
    """The end of a memory channel that values are taken from.

    `receive`, `async for` and `aclose` are for async code, `sync_receive`, `for` and `close` for any
    other.
    """

    async def receive(self) -> _T_co:
        """Takes the next value, waiting for one if need be. Cancellation loses none. A checkpoint.

        `EndOfStream` if every sending end is closed and nothing is left; `ClosedResourceError` if this
        end is closed, also during the wait.
        """
    def sync_receive(self) -> _T_co:
        """`receive` for synchronous code: a green thread parks, an OS thread blocks."""
    def receive_nowait(self) -> _T_co:
        """`receive`, but `WouldBlock` if there is nothing."""
    def clone(self) -> MemoryReceiveChannel[_T_co]:
        """One receiving end more. Each value goes to one of them."""
    def close(self) -> None:
        """Closes this end; with the last one, what was not received is dropped. Idempotent."""
    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
    def statistics(self) -> Any:
        """How the channel is used at the moment; attached by aevent/_channels.py."""
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> _T_co: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T_co: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
    def _numbers(self) -> tuple[int, float, int, int, int, int]:
        """As for the other end."""
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...

def adopt_local(local: local, former: object) -> None:
    """Makes `local`, which is new, one whose attributes belong to tasks of whichever kind.

    In a host's task and outside tasks, the OS thread's: there it has what was put into `former`, a
    local of either type that is not to be used any more, or `None`.
    """

def keep_generator_hooks(
    set_hooks: Callable[..., object], before: tuple[Any, ...], now: tuple[Any, ...]
) -> None:
    """The running task has set the interpreter's hooks for async generators.

    They are its own from now on: while others run there are those of `before`.
    """

def keep_running_loops(original: Callable[[Any], None]) -> None:
    """Says what `_set_running_loop` stands for. The first one counts."""

def _set_running_loop(loop: Any, /) -> None:
    """Set the running event loop.

    It is the running task's from now on, if there is one, and nobody else's.
    """

@final
class ModuleView:
    """Stands for a module in the hosts' own: every attribute is the module's at that moment.

    Except what `given` names: a pair of what stands in the module and what is given instead.
    """

    def __new__(cls, module: ModuleType, given: dict[str, tuple[Any, Any]]) -> Self: ...
    def __getattribute__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __delattr__(self, name: str, /) -> None: ...
    def __dir__(self) -> list[str]: ...

@disjoint_base
class local:
    """`threading.local`: its attributes belong to the running thread, green or real.

    In a host's task, a native coroutine, or outside tasks, the OS thread's. They end with their
    thread or with the local. A subclass's `__init__` runs again, with the same arguments, in each
    thread that uses the object. Semantics CPython's `_thread._local`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def __getattribute__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __delattr__(self, name: str, /) -> None: ...

# --- Tasks and threads ----------------------------------------------------------------------------

@final
class Task:
    """A handle of a task. Equal to other handles of the same task."""

    @property
    def ident(self) -> int:
        """The number that stands for it as a thread. Reused after its end, like a real thread's."""
    @property
    def name(self) -> object:
        """The name that it was given, or the function of a green thread or of the main task.

        `None` for others without one; see `lowlevel.task_name`.
        """
    @property
    def kind(self) -> Literal["green", "coroutine", "host"]:
        """What it is made of: see `task_kind`."""
    @property
    def coro(self) -> Any:
        """Its coroutine, until it has ended; `None` for a green thread."""
    @property
    def state(self) -> Literal["ready", "running", "parked", "ended"]:
        """What it is doing. Thread-safe, and perhaps not so any more."""
    @property
    def context(self) -> contextvars.Context | None:
        """Its `contextvars` context, until it has ended; `None` for a host's task."""
    @property
    def parent(self) -> Task | None:
        """The task of ours in whose group it is, until it has ended; `None` for the loop's own."""
    @property
    def is_cancelled(self) -> bool:
        """Whether its next wait would raise `Cancelled`."""
    @property
    def thread(self) -> threading.Thread | None:
        """Its `threading.Thread` object, or what stands for that."""
    @thread.setter
    def thread(self, thread: threading.Thread | None) -> None: ...
    def is_alive(self) -> bool:
        """Whether it has not ended. Thread-safe."""
    def join(self, timeout: float | None = None) -> bool:
        """Waits for its end: a task parks, an OS thread blocks. False when `timeout` is over.

        RuntimeError if the thread that runs the task would wait for it for ever.
        """
    def result(self) -> Any:
        """What it returned, once; raises what it raised. RuntimeError if it has not ended.

        Only the main task's outcome is kept; for others it is `None`.
        """
    def interrupt(self, error: BaseException) -> None:
        """Has its next park, or the one it is in, raise `error`."""
    def cancel(self) -> None:
        """Cancels it. Without effect on a host's task, which its host cancels."""
    def _finished_wait(self) -> Wait:
        """A wait for its end."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Children:
    """The tasks of a task group, or the threads of a runner: how many are left, what went wrong.

    `parent` is the entered scope that their own are below of; without one, the running task's
    innermost. With `keeps_errors`, a child's exception is kept and cancels its siblings;
    without, it is reported as `sys.unraisablehook` does.
    """

    def __new__(cls, parent: CancelScope | None = None, *, keeps_errors: bool = True) -> Self: ...
    def spawn(
        self, function: Callable[..., object], *args: Any, name: str | None = None
    ) -> CancelScope:
        """Starts `function(*args)` as a green thread, in a copy of the caller's context.

        TypeError if it is no function. RuntimeError if the group is closed, or if nobody drives the
        thread's loop.
        """
    def spawn_coroutine(
        self,
        coroutine: Coroutine[Any, Any, object],
        name: str | None = None,
        *,
        daemon: bool = False,
        context: contextvars.Context | None = None,
    ) -> CancelScope:
        """Starts a coroutine as a native task, in `context` or a copy of the caller's. As `spawn`.

        Nobody waits for a daemon.
        """
    def check_open(self) -> None:
        """RuntimeError unless children may be started."""
    def settle(self) -> None:
        """No more children will be started."""
    def close(self) -> None:
        """From now on nothing can be started here."""
    def cancel(self) -> None:
        """Cancels every child."""
    def abandon(self) -> None:
        """Leaves the children that have not ended where they are: they never end."""
    def fail(self, error: BaseException) -> None:
        """Keeps `error` and cancels the children."""
    @property
    def is_closed(self) -> bool:
        """Whether nothing can be started here any more."""
    @property
    def failed(self) -> bool:
        """Whether a child has failed and its exception was not taken, or was `cancelled`."""
    @property
    def cancelled(self) -> bool:
        """Whether a child has passed on a cancellation that was not for its own scope."""
    @property
    def is_cancelled(self) -> bool:
        """Whether the children were cancelled: by `cancel`, by a failure or from above."""
    def __contains__(self, task: Task, /) -> bool:
        """Whether the task is one of them that has not ended."""
    def wait_for_daemon(self, task: Task) -> None:
        """Has `wait_empty(daemons_too=False)` wait for the task, too, if it is one of them."""
    @property
    def pending(self) -> int:
        """How many children have not ended."""
    @property
    def daemons(self) -> int:
        """How many of them nobody waits for."""
    def wait_empty(self, *, daemons_too: bool = True) -> Wait:
        """A wait for the end of the last child, or of the last that is no daemon."""
    def set_beyond(self, deadline: Callable[[], float]) -> None:
        """What tells the deadline of the host's scope around them, for them to be asked for it."""
    def wait_settled(self) -> Wait:
        """A wait until a child has failed, or the last has ended after `settle`."""
    def member(self) -> Member:
        """Counts a child that is no task of ours, until the result's `end` or its own."""
    def take_errors(self) -> list[BaseException]:
        """The exceptions of children, which are forgotten here."""

@final
class Member:
    """A child that a host runs: what its coroutine holds, so that it ends even if it never began."""

    def end(self) -> None:
        """The child has ended. Idempotent."""

@disjoint_base
class TaskGroup:
    """A group of tasks that is left when all of them have ended.

    `async with TaskGroup() as tg:`, or a plain `with` in synchronous code of a task; then
    `tg.spawn(fn, *args)`. If a child or the body fails, the others are cancelled, and leaving the group
    raises an exception group of everything that went wrong. Leaving it is no place where the task is
    cancelled; it passes on the cancellation of its children and its body. Entered once. Semantics
    `trio.Nursery`'s; a synchronous `fn` runs as a green thread. Other tasks of the same OS thread may
    use it, too; not thread-safe.
    """

    def __new__(cls, *, _scope: CancelScope | None = None) -> Self:
        """`_scope` is for adapters: the scope that the group enters, instead of a new one."""
    @property
    def cancel_scope(self) -> CancelScope:
        """The scope around the body and all children. RuntimeError before the group is entered."""
    def spawn(
        self, function: Callable[..., object], /, *args: Any, name: str | None = None
    ) -> CancelScope:
        """Starts `function(*args)` as a child and returns the child's cancel scope.

        `function` is an async function, or a synchronous one, which runs as a green thread. The scope
        can also be awaited, which gives the scope at once. What the function returns is dropped; what it
        raises cancels the group. Not a checkpoint. RuntimeError if the group is not entered, or was
        left; TypeError if `function` is no function.
        """
    def start_soon(
        self, function: Callable[..., object], /, *args: Any, name: str | None = None
    ) -> None:
        """`spawn`, under trio's name and with trio's result: none."""
    def _spawn_coroutine(
        self,
        coroutine: Coroutine[Any, Any, object],
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> CancelScope:
        """Starts a coroutine as a child, in `context` or a copy of the caller's.

        For groups that were entered in a task of ours. RuntimeError as `spawn`.
        """
    def start(
        self, function: Callable[..., object], /, *args: Any, name: str | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Starts a child, waits until it calls `task_status.started(value)`, and returns the value.

        `await tg.start(fn, *args)`; in synchronous code, `aevent.await_(tg.start(fn, *args))`. `function`,
        async or synchronous, gets the keyword argument `task_status`. Until it has started it belongs to
        the caller: what it raises is raised here, and if this is cancelled, so is the child. From then
        on it belongs to the group. RuntimeError if it ends without having started. Semantics
        `trio.Nursery.start`.
        """
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...
    @property
    def _children(self) -> Children | None:
        """Those that are tasks of ours; `None` before the group is entered."""

def set_group_hooks(
    host_group: Callable[[TaskGroup, Any], object],
    is_coroutine_function: Callable[[Any], bool],
    call_async: Callable[..., object],
    start: Callable[..., Coroutine[Any, Any, Any]],
) -> None:
    """What `TaskGroup` does in Python: a host's group; what kind of function something is, if that is
    not known otherwise; running an async function in a green thread; `start`. The first call counts."""

def start_new_thread(
    function: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    /,
) -> int:
    """`_thread.start_new_thread` in a task: a green thread that nobody waits for. Its identifier.

    It belongs to the caller's runner; RuntimeError without one. Its exception is reported as
    `sys.unraisablehook` does.
    """

def start_thread(
    thread: threading.Thread,
    daemon: bool,
    function: Callable[[], object] | None = None,
    context: contextvars.Context | None = None,
) -> Task:
    """Starts `thread` as a green thread, in `context` or an empty one.

    With `function`, that is called instead of the thread's `run`, and has to provide for its
    exceptions. The caller's runner waits for the thread unless it is a daemon. RuntimeError without
    a runner.
    """

def set_thread_hooks(
    run: Callable[..., object],
    report: Callable[[threading.Thread, BaseException], object],
    alive: dict[int, threading.Thread],
) -> None:
    """What green threads of `start_thread` need. Called once, by the patch of `threading`.

    `run` is `threading.Thread.run`; `report` gives an exception to `threading.excepthook`; from
    `alive` a thread is removed, by its identifier, when it ends.
    """

def makes_coroutine(function: Callable[..., object]) -> bool | None:
    """Whether calling `function` makes a coroutine; `None` if only `inspect` can tell."""

def set_tracing_functions(
    gettrace: Callable[[], Any],
    settrace: Callable[[Any], object],
    getprofile: Callable[[], Any],
    setprofile: Callable[[Any], object],
) -> None:
    """`sys`'s own functions. Called once, by its patch."""

def settrace(function: Any, /) -> None:
    """`sys.settrace` in a task: for the running thread only, if it is a green one."""

def setprofile(function: Any, /) -> None:
    """`sys.setprofile` in a task: for the running thread only, if it is a green one."""

def separate_profilers(enable: Callable[..., object]) -> None:
    """From now on what `cProfile.Profile` objects have installed is the running thread's only.

    `enable` is their method, which installs it again when the thread runs.
    """

def settrace_all_threads(function: Any, original: Callable[[Any], object], /) -> None:
    """`threading.settrace_all_threads`: for green threads, too, those of other OS threads included.

    `original` does it for the OS threads. A green thread that does not run at the moment has the
    function when it runs next.
    """

def setprofile_all_threads(function: Any, original: Callable[[Any], object], /) -> None:
    """`threading.setprofile_all_threads`, as `settrace_all_threads`."""

def thread_count() -> int:
    """How many green threads were started as threads and have not ended, in all OS threads."""

def thread_ident() -> int | None:
    """The identifier of the green thread that calls; `None` outside one and under `native()`."""

def owner_ident() -> int:
    """What tells the running task from all others, or else its OS thread: who owns an `RLock`."""

def current_thread() -> threading.Thread | None:
    """The `threading.Thread` object of the green thread that calls, if it has one."""

def forest() -> list[tuple[int, list[tuple[int | None, Task | None, float, bool, bool, bool]]]]:
    """The trees of scopes of all loops: the identifier of the loop's OS thread, and the open scopes.

    A scope comes after the one around it, and is: that one's index, the task in it, its deadline,
    whether it shields, whether it was cancelled itself, and whether what is inside is. Thread-safe.
    """

def suspended_frame(task: Task) -> FrameType | None:
    """The innermost frame of a task that is parked in synchronous code. Thread-safe."""

def task_of_portal(portal: Portal[Any]) -> Task:
    """What stands for a host's task with a portal among ours."""

def all_tasks() -> list[Task]:
    """The tasks of ours in the caller's program that have not ended, the outermost first."""

def current_task() -> Task | None:
    """The running task, also under `native()`."""

def main_task() -> Task | None:
    """The main task of the thread's loop: it calls signal handlers. `None` on a host with async code."""

def in_task() -> bool:
    """Whether patched calls cooperate where this is called."""

def task_kind() -> Literal["green", "coroutine", "host"] | None:
    """What runs: a green thread, a coroutine of the native backend, or a host's task."""

def adjust_native(delta: int) -> bool:
    """Counts `native()` up or down for the running task. False without a task."""

def replace_native(depth: int) -> int | None:
    """Sets how deep the running task is in `native()`; how deep it was. `None` without a task."""

def set_home(children: Children | None) -> Children | None:
    """Threads that the running task starts belong to `children` from now on. Whose they were."""

def runner_variable() -> contextvars.ContextVar[Children]:
    """The context variable that holds the innermost runner's children, for hosts' tasks."""

def set_loop_name_variable(variable: contextvars.ContextVar[str | None]) -> None:
    """It holds the name of the running loop, as sniffio's does: green threads do not inherit it."""

# --- Driving the loop -----------------------------------------------------------------------------

def run_native(
    function: Callable[..., object] | None,
    args: tuple[Any, ...],
    coroutine: Coroutine[Any, Any, object] | None,
    children: Children,
    name: object = None,
) -> Any:
    """Runs `function(*args)`, or a coroutine, as the main task of the native loop, to its end.

    Returns what it returned, raises what it raised. The interpreter is released while the loop
    waits. RuntimeError if the thread's loop is running already.
    """

def start_main(
    function: Callable[..., object],
    args: tuple[Any, ...],
    children: Children,
    name: object = None,
) -> tuple[Task, CancelScope]:
    """Starts `function(*args)` as the main green thread of a runner that a host drives."""

def set_main(task: Task | None) -> Task | None:
    """`task` calls the signal handlers of the thread's loop from now on; who did before."""

def set_host(host: object) -> None:
    """`host`, an adapter, drives the thread's loop from now on; `None` ends that.

    RuntimeError if the native loop runs in this thread.
    """

def get_host() -> object:
    """The adapter that drives the thread's loop, or `None`."""

def driver() -> Literal["native", "host"] | None:
    """Who drives the thread's loop."""

def loop_fd() -> int:
    """The descriptor that a host waits for: readable when `tick` has something to do."""

def tick() -> bool:
    """One turn for a host: takes in what has happened, and runs tasks for one time slice.

    True: more are ready, so call again soon. False: wait until `loop_fd()` is readable.
    RuntimeError if no host drives the thread's loop, or from inside a tick.
    """

def ask_for_tick() -> None:
    """Makes `loop_fd()` readable: somebody is ready, and the host was not told so by `tick`."""

def after_fork_in_child() -> None:
    """For `os.register_at_fork`: the running task is the only one, and the scheduler is fresh."""

def referrers(
    objects: list[Any], targets: list[Any], kinds: tuple[type, ...], /
) -> list[tuple[Any, Any]]:
    """Which of `objects` refer to what: pairs of a referrer and one that it refers to.

    Reported are references to one of `targets`, by identity, and to an instance of exactly one of
    `kinds`. A referrer comes once for each of its references.
    """

def print_exception(error: BaseException) -> None:
    """Reports an exception as the interpreter reports one that has ended a program."""

def print_ignored(error: BaseException, source: object = None) -> None:
    """Reports an exception that ends nothing, by `sys.unraisablehook`; `source` has raised it."""

def call_handling(error: BaseException, function: Callable[..., _T], /, *args: Any) -> _T:
    """Calls `function(*args)`, for which `sys.exc_info()` is the error with its traceback as it is.

    Raising it again for that would add to the traceback; until Python 3.10, `sys.exc_info()` keeps
    its own.
    """

@final
class LoopWatch:
    """What a watchdog in another OS thread may ask of the loop of the thread that makes this.

    `is_hosted`: a host drives it. Such a loop looks for events only when it has something to do for
    us, or is asked to.
    """

    def __new__(cls, *, is_hosted: bool = False) -> Self: ...
    def held(self) -> float:
        """Seconds since the loop last looked for events, in milliseconds' steps; 0.0 while it waits."""
    def ask(self) -> None:
        """Has the host look. It is woken for that if it waits."""
    def is_asked(self) -> bool:
        """Whether the host was asked to look and has not."""
    def unanswered(self) -> float:
        """For how many seconds."""
    def set_at_rest(self) -> None:
        """The host was found waiting. It is left alone until its thread has done something."""
    def running_task(self) -> Task | None:
        """Who runs: a task of ours, or a host's task with a portal. `None` after `end`."""
    def end(self) -> None:
        """The loop is watched no more. To be called before its thread ends, and by that thread."""

def wait_until_held_up(watches: list[LoopWatch], interval: float, at_once: bool) -> float:
    """Looks at the loops every `interval` seconds, and returns when one seems to be held up.

    Without the interpreter, so that they do not pay for it; a host that computes and has not looked is
    asked to. Returns after one interval if `at_once` or since `watches_changed()` was called. The
    result is for how many seconds the interpreter was not to be had because somebody computed and
    did not give it away. For one thread.
    """

def watches_changed() -> None:
    """Has `wait_until_held_up` return after the present interval."""

def statistics() -> dict[str, float]:
    """Figures about the thread's loop (ready tasks, timers, stacks, next deadline); empty if it has none.

    "working" is 1 while a task waits for work that is done in another thread of this process.
    """

# --- Signals --------------------------------------------------------------------------------------

def deliver_signal(number: int, frame: FrameType | None, /) -> None:
    """What the interpreter calls instead of a program's signal handler.

    In the main task, and where nobody drives the thread's loop, it calls the handler. Elsewhere the
    main task is unparked and calls it where it is parked: what the handler raises is raised there,
    and if it raises nothing the wait goes on. A green thread that computes is preempted for that,
    where it can be left: see `preempt`.
    Without a main task the handler is called outside of any task.
    """

def preempt(number: int, frame: FrameType | None, /) -> None:
    """What the interpreter calls when a task has computed for long: a green thread lets others run.

    Not while it is under `native()`, is in aevent's own Python code, in what a
    host or a C extension has called, or in a trace function. Raises what a signal handler raises
    that is called meanwhile.
    """

def set_preemption(number: int) -> None:
    """Has `preempt`, the handler of this signal, called when a green thread computes; 0: no more.

    In the main OS thread. Where the system has no timers of CPU time, nothing happens.
    """

def set_preemption_points(points: bytes) -> None:
    """The instructions at which a task that computes may be left."""

def hold_preemption(delta: int) -> None:
    """Above zero in sum, nobody is preempted for the time being."""

def set_signal_handler(number: int, handler: Callable[..., object] | None) -> Any:
    """Sets what `deliver_signal` calls for a signal, and returns what it was."""

def signal_handler(number: int) -> Any:
    """What `deliver_signal` calls for a signal, or `None`."""

def on_handler_failure(
    function: Callable[[BaseException], bool] | None,
) -> Callable[[BaseException], bool] | None:
    """Has `function` called with what a handler raises while there is no main task; what was set.

    If it returns false, the exception is raised where the signal was noticed.
    """

def wait_for_handler() -> None:
    """`signal.pause` in a task: parks until a signal handler has been called."""

def open_signalfd(numbers: list[int]) -> int:
    """A descriptor that is readable while one of these signals, which are to be blocked, is pending.

    Raises OSError.
    """

def watch_signals(descriptor: int) -> None:
    """Has the loop wake when something is written to the pipe that `descriptor` reads.

    What arrives is thrown away. -1 ends that.
    """

# --- Between async and synchronous code -----------------------------------------------------------

@final
class Portal(Coroutine[Any, Any, _T_co]):
    """A coroutine around a host's coroutine whose synchronous calls may park.

    Each step runs on a stack of the scheduler's. A call that parks makes the host's task wait, by
    the adapter's `park`. Other attributes are those of the coroutine inside.
    """

    def __new__(cls, coroutine: Coroutine[Any, Any, _T_co], host: object) -> Self: ...
    @property
    def coroutine(self) -> Coroutine[Any, Any, _T_co]:
        """The coroutine inside."""
    def send(self, value: Any) -> Any:
        """One step. RuntimeError if it has ended, or in a thread that has no loop."""
    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """One step that begins with an exception, also in a synchronous call that is parked."""
    def close(self) -> None:
        """Ends it by GeneratorExit. RuntimeError if it yields again."""
    def __await__(self) -> Generator[Any, Any, _T_co]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def __getattribute__(self, name: str, /) -> Any: ...

def lend_context() -> contextvars.Context:
    """The context object itself that the caller runs in, which it leaves for a copy.

    So somebody else can enter it, until `take_context_back`.
    """

def take_context_back(context: contextvars.Context) -> None:
    """The caller runs in what it has lent again."""

def await_here(iterator: Any) -> Any:
    """Drives a coroutine, or an `__await__()` iterator, from synchronous code in the running task.

    What it yields goes to the host in a host's task; in ours, only what aevent's own awaitables
    yield is understood (RuntimeError otherwise, raised where it is awaited). Returns its result.
    RuntimeError outside a task.
    """

def replace_coroutine(task: object, accessor: Callable[[Any], object], portal: Portal[Any]) -> None:
    """Has `task`, whose type hides its coroutine, go on with `portal` instead.

    `accessor(task)` is the coroutine: a method of the type in C. RuntimeError, and nothing is changed, if
    the portal is not around that, or if the object does not own it in exactly one place.
    """

# --- Files ----------------------------------------------------------------------------------------
# `O_NONBLOCK` stays as it is: a file that has it says so, as it does everywhere, and none is given it.
# Whoever waits for a descriptor that a task closes is told EBADF. RuntimeError outside a task, if the
# call has to wait.

def os_read(fd: int, length: int, /) -> bytes:
    """`os.read` in a task."""

def os_write(fd: int, data: Buffer, /) -> int:
    """`os.write` in a task. Writes everything, unless it is cancelled in the middle."""

def os_readv(fd: int, buffers: Sequence[Buffer], /) -> int:
    """`os.readv` in a task."""

def os_writev(fd: int, buffers: Sequence[Buffer], /) -> int:
    """`os.writev` in a task. As `os_write`."""

def os_close(fd: int) -> None:
    """`os.close` in a task: whoever waits for the descriptor is woken first."""

file_io_methods: dict[str, Callable[..., Any]]
"""What the methods of `io.FileIO` are in a task, by name."""

def buffered_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function for tasks that calls `original`, a method of a buffered file, when it is its turn.

    Another task that is inside, in any method of the same object, is waited for, and so is another
    OS thread. A call from inside one's own (a signal handler's, for one) is passed on.
    """

def find_word(object: object, value: int) -> list[int]:
    """The offsets of the machine words of an object of a type in C that hold `value`."""

def set_buffered_owner(offset: int) -> None:
    """At which offset a buffered object has the number of the thread that is inside."""

def watch_buffered(classes: list[type]) -> None:
    """The classes of which buffered objects are. Iterating over them waits its turn from now on."""

def set_class_attribute(kind: type, name: str, value: object) -> None:
    """Sets an attribute of a class that is written in C. TypeError if it has no dictionary."""

def opener(original: Callable[..., Any], for_fifos: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `original`, the builtin `open`; `for_fifos` if the path names a FIFO."""

def is_fifo(path: object) -> bool:
    """Whether a path names a FIFO. False for what names nothing, or is no path."""

def open_fifo(path: bytes, flags: int, mode: int) -> int:
    """`open(2)` in another thread. If the task gives up, nothing stays open."""

# --- Child processes ------------------------------------------------------------------------------

def wait_child(which: int, id: int, options: int, timeout: float | None = None) -> bool:
    """Parks until `waitid(which, id, options)` may have something to tell: true; false after `timeout`.

    Nobody is reaped, and who calls asks the system again. The end of a single process is reported by
    a pidfd; anything else, and where there is none, by a thread that waits with WNOWAIT.
    """

def wait_flock(fd: int, operation: int) -> None:
    """Parks until `flock(fd, operation)`, LOCK_SH or LOCK_EX, has been done; OSError if it cannot be.

    It is tried again and again by the loop, without the task. Those of the loop who want the same get it in
    the order of their asking. A task that gives up does not get it: not later, either.
    """

def wait_record_lock(
    fd: int, command: int, kind: int, whence: int, start: int, length: int
) -> None:
    """The same for a lock on a part of a file.

    `command` is F_SETLK or F_OFD_SETLK, `kind` F_RDLCK or F_WRLCK; the others are those of `struct flock`.
    """

# --- Sockets --------------------------------------------------------------------------------------
# Signatures, errors and timeouts are those of the methods of `socket.socket`, of which these are the
# cooperative variants. A socket with timeout 0 raises BlockingIOError instead of parking. One that
# is closed while a task waits for it raises EBADF there. RuntimeError outside a task, if the call has
# to wait.

def socket_recv(sock: _socket.socket, bufsize: int, flags: int = 0, /) -> bytes:
    """`socket.recv` in a task."""

def socket_recv_into(sock: _socket.socket, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
    """`socket.recv_into` in a task."""

def socket_send(sock: _socket.socket, data: Buffer, flags: int = 0, /) -> int:
    """`socket.send` in a task."""

def socket_sendall(sock: _socket.socket, data: Buffer, flags: int = 0, /) -> None:
    """`socket.sendall` in a task. The timeout is for the whole."""

def ssl_read(sock: _socket.socket, sslobj: Any, size: int, buffer: Buffer | None = None, /) -> Any:
    """`sslobj.read(size[, buffer])` in a task. `sslobj` is OpenSSL's object in the `SSLSocket`.

    Timeouts are those of `sock`, in the words of the original.
    """

def ssl_write(sock: _socket.socket, sslobj: Any, data: Buffer, /) -> int:
    """`sslobj.write(data)` in a task. One that has to wait is finished before another begins."""

def ssl_call(sock: _socket.socket, method: Callable[[], _T], /) -> _T:
    """`method()` in a task: the handshake or the shutdown of the `SSLSocket`."""

def queue_methods(module: ModuleType) -> dict[str, Any]:
    """The methods that `queue.Queue` is given: `put` and `get`, for tasks and OS threads alike.

    They do what the original ones do, and call those for queues that are not as `queue`'s own
    `__init__` and hooks make them. Empty if something else has replaced the originals already.
    """

def socket_call(
    method: Callable[..., _T],
    write: bool,
    sock: _socket.socket,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> _T:
    """Calls `method(sock, *args, **kwargs)`, an original method, parking where it would block.

    `write` tells which readiness it waits for. The socket is non-blocking for the length of the
    call, which is repeated until it does not raise BlockingIOError.
    """

def socket_connect(method: Callable[..., object], sock: _socket.socket, address: Any) -> int:
    """`socket.connect` in a task; `method` is the original. The errno of the outcome, or 0.

    EAGAIN: a UNIX socket whose listener's backlog is full, for which there is no event. An error
    that the system reports at once is raised.
    """

def socket_io_methods(kind: type, socket: type) -> dict[str, Callable[..., Any]]:
    """`readinto` and `write` of `socket.SocketIO`, which is `kind`, for a task.

    Called when the methods of `socket` are patched and those of `kind` are not.
    """

def socket_writer_method(kind: type) -> Callable[..., Any]:
    """`write` of what `socketserver` gives its handlers to write to, `kind`, for a task.

    Called after `socket_io_methods`.
    """

@final
class SocketCall:
    """`await SocketCall(sock, method, write, *args)`: the result of `method(*args)`.

    `sock` is non-blocking. The task waits while the method raises BlockingIOError, for readiness to
    be written to or read from as `write` says. A checkpoint only if others have waited for long. For
    native tasks; raises `Cancelled`, and EBADF if the socket is closed meanwhile.
    """

    def __new__(
        cls, sock: _socket.socket, method: Callable[..., Any], write: bool, *args: Any
    ) -> Self: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

def socket_opened(sock: _socket.socket) -> None:
    """A socket object has got its descriptor: what was known about the number is void."""

def socket_closing(sock: _socket.socket) -> None:
    """A socket is about to give up its descriptor: whoever waits for it is woken. Thread-safe."""

# --- Patched callables ----------------------------------------------------------------------------

@final
class PatchedFunction:
    """A function that calls the original outside tasks and aevent's replacement in one.

    It has the name and the docstring of the original; it does not bind, like a builtin function.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]
    _aevent_orig: Callable[..., Any]
    _aevent_new: Callable[..., Any]

    def __new__(
        cls,
        original: Callable[..., Any],
        replacement: Callable[..., Any],
        name: str,
        qualname: str,
        module: str,
    ) -> Self: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def _aevent_select(self) -> Callable[..., Any]:
        """The callable that applies to the caller: the original, or aevent's."""
    def __reduce__(self) -> str:
        """Pickled by name."""

@final
class PatchedMethod:
    """A method that calls the original outside tasks and aevent's replacement in one."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]
    _aevent_orig: Callable[..., Any]
    _aevent_new: Callable[..., Any]

    def __new__(
        cls,
        original: Callable[..., Any],
        replacement: Callable[..., Any],
        name: str,
        qualname: str,
        module: str,
    ) -> Self: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., Any]: ...
    def _aevent_select(self) -> Callable[..., Any]:
        """The callable that applies to the caller: the original, or aevent's."""
    def __reduce__(self) -> str:
        """Pickled by name."""
