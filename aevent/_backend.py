"""The contract that an adapter of a host's loop fulfils, and how adapters are found.

An adapter only translates. The scheduler, its timers, the readiness of descriptors, locks, green
threads and their cancel scopes are the same whoever drives them; the adapter calls `_core.tick()`
when the scheduler's descriptor is readable, makes a host's task wait for one of ours, and hands out
the host's own tasks and cancel scopes.

The native backend has no host: the scheduler's loop is the loop. There is nothing to translate.
"""

from __future__ import annotations

import contextvars
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Protocol, TypeVar

from . import _core
from ._exceptions import AeventError, RunFinishedError
from ._monkey import originals

T = TypeVar("T")

BACKENDS = ("native", "asyncio", "trio")

#: Seconds: how long host code waits for other OS threads before it looks what green threads do.
_A_MOMENT = 0.001


def no_one() -> None:
    """Is called where nobody asked to be told."""


class HostScope(Protocol):
    """A host's cancel scope. A host's task enters and leaves it; green threads may change it."""

    #: Whether `__exit__` was called, or it was left otherwise, and whoever did that has said so.
    is_left: bool

    @property
    def cancel_called(self) -> bool:
        """Whether it was cancelled, or its deadline has passed."""

    @property
    def cancelled_caught(self) -> bool: ...
    def cancel(self) -> None:
        """Cancels it."""

    def set_deadline(self, deadline: float) -> None:
        """Moves the deadline, in seconds of `time.monotonic()`."""

    def set_shield(self, shield: bool) -> None: ...
    def set_beyond(self, deadline: Callable[[], float] | None) -> None:
        """What else has a deadline for what runs in it, shielded or not: see `deadline_here`.

        Somebody else cancels the scope then, and this one if it says so beforehand.
        """

    def __enter__(self) -> object: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...


@dataclass(frozen=True)
class HostTask:
    """What can be said of a host's task."""

    #: The host's own object.
    host_task: Any
    name: str
    coro: Any = field(repr=False)
    context: contextvars.Context | None = field(repr=False)
    #: The task in whose group it is, where the host knows.
    parent: HostTask | None = field(repr=False)

    @property
    def kind(self) -> str:
        return "host"


class HostTasks(Protocol):
    """A container of a host's tasks, entered by `async with`: leaving it waits for all of them."""

    scope: HostScope

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], name: str | None) -> None:
        """Starts `make()`, whose exceptions the caller has provided for, as a task."""


#: The adapters that drive a loop at the moment, in whichever OS threads.
attached: set[HostBackend] = set()


class Backend(ABC):
    """What drives a loop. Of the native one, which `aevent.run` runs itself, this is all."""

    name: str

    #: The names of the options that `run` takes.
    run_options: frozenset[str]

    #: Whether every task of the host's gets a portal, from `begin_ticking` to `end_ticking`: those
    #: that there are, and those that are started then.
    portals_for_all = False


class HostBackend(Backend):
    """An adapter to a loop that somebody else runs. One object per running loop."""

    #: What the host raises in a cancelled task.
    cancelled: type[BaseException]

    def __init__(self) -> None:
        self._attached = 0
        self._ticking = False
        self._deferred: list[Callable[[], object]] = []
        #: The identifier of the OS thread whose loop it drives.
        self.thread = 0
        #: What stands for it in other threads; see `_entry`.
        self.token: Any = None

    @abstractmethod
    def run(self, main: Callable[[], Awaitable[T]], name: str, options: dict[str, Any]) -> T:
        """Runs the host's loop until `main()` is done, in a task that is called `name`.

        `options` are the host's own.
        """

    # --- driving the scheduler ---

    def attach(self) -> None:
        """Has the host drive the calling thread's scheduler, until `detach`. Nests."""
        if self._attached == 0:
            _core.set_host(self)
            self.thread = originals.get_ident()
            attached.add(self)
            try:
                self.begin_ticking()
            except BaseException:
                _core.set_host(None)
                attached.discard(self)
                raise
        self._attached += 1

    def detach(self) -> None:
        """Ends what `attach` began."""
        self._attached -= 1
        if self._attached == 0:
            self.end_ticking()
            attached.discard(self)
            _core.set_host(None)

    @abstractmethod
    def begin_ticking(self) -> None:
        """Has the host call `tick` whenever `_core.loop_fd()` is readable, and once at first."""

    @abstractmethod
    def end_ticking(self) -> None:
        """Undoes `begin_ticking`. The host calls `tick` no more."""

    def tick(self) -> bool:
        """One turn of the scheduler. True: call again soon, after the host's own tasks."""
        self._ticking = True
        self.hide()
        try:
            return _core.tick()
        finally:
            self.show()
            self._ticking = False
            while self._deferred:
                self._deferred.pop(0)()

    def run_others(self) -> bool | None:
        """Has the green threads run for host code that must have what one of them holds.

        True: more of them are ready. `None`: inside a tick nobody else can run.
        """
        return None if self._ticking else self.tick()

    def run_others_until(self, attempt: Callable[[float], bool]) -> bool:
        """Has the green threads run until `attempt(seconds)`, which may wait so long, is true.

        For host code that must have what one of them holds. To wait as usual would be to wait for
        ever: they run in the same OS thread. False: inside a tick nobody else can run.
        """
        more: bool | None = False
        try:
            while not attempt(0 if more else _A_MOMENT):
                more = self.run_others()
                if more is None:
                    return False
        finally:
            if more:
                _core.ask_for_tick()
        return True

    def hide(self) -> None:
        """Green threads are about to run: they see no running loop, as real threads would not."""

    def show(self) -> None:
        """The host's own code is about to run again."""

    def call_in_host(self, fn: Callable[[], object]) -> None:
        """Calls `fn` where the host's functions work: now, or at the end of the running tick.

        Thread-safe: for another OS thread it is called soon, in the host's own; not at all if the
        host's run has ended.
        """
        if originals.get_ident() != self.thread:
            with suppress(RunFinishedError):
                self.run_soon(fn)
        elif self._ticking:
            self._deferred.append(fn)
        else:
            fn()

    def calling_anyio(self) -> AbstractContextManager[None]:
        """What `call_in_host` calls may use anyio in it, though it is called outside of a task."""
        return nullcontext()

    @property
    @abstractmethod
    def loop_clock(self) -> Any:
        """What tells the loop the time. That of a loop for tests may be put into their hands."""

    # --- the host's tasks ---

    @property
    @abstractmethod
    def gives_portals(self) -> bool:
        """Whether each task that is started now gets a portal."""

    @abstractmethod
    def is_running(self) -> bool | None:
        """Whether the caller is in the loop that this drives; `None` if it is in no loop at all.

        It is in another if a task or a green thread runs one of its own.
        """

    @abstractmethod
    def install_portal(self, task: Any = None) -> None:
        """Puts a portal around `task`, or else the running one; it counts from the next step on."""

    @abstractmethod
    def has_portal(self, task: Any) -> bool:
        """Whether there is a portal around the host's `task`."""

    @abstractmethod
    def portals_in_tree(self) -> AbstractContextManager[None]:
        """In the body each task that the running one starts has a portal, and those it starts."""

    def portal(self, coroutine: Coroutine[Any, Any, T]) -> _core.Portal[T]:
        """A portal around a coroutine that the host has not started."""
        return _core.Portal(coroutine, self)

    @abstractmethod
    async def park(self, waker: _core.HostWaker) -> None:
        """Makes the host's running task wait until `waker` is woken, or not at all if it is.

        The host's own cancellation ends the wait with the host's own exception.
        """

    async def pause(self, waker: _core.HostWaker) -> None:
        """As `park`, for a call that only lets others run: it does not hear of a cancellation.

        A call that need not wait raises none, or `with lock:` in a `finally` could fail.
        """
        with self.open_scope(math.inf, True):
            await self.park(waker)

    @abstractmethod
    def run_soon(self, fn: Callable[[], object]) -> None:
        """Has the host call `fn()` soon, in its own thread. Thread-safe.

        Raises RunFinishedError if the host's run has ended.
        """

    # Of the following, a watchdog in another OS thread asks while it has the interpreter.

    def is_waiting(self, frame: FrameType | None) -> bool:
        """Whether a thread that is in `frame` waits for events in this loop. False if not known."""
        return False

    def is_below_tasks(self, frame: FrameType) -> bool:
        """Whether `frame` is the loop's own, which calls what its tasks do."""
        return False

    def task_in(self, frame: FrameType | None) -> HostTask | None:
        """The task of the host that runs in `frame`, if that can be told."""
        return None

    @abstractmethod
    def spawn_detached(
        self, coroutine: Coroutine[Any, Any, None], ended: Callable[[], object] = no_one
    ) -> None:
        """Starts a task that belongs to nobody, and whose exceptions are provided for.

        `ended()` is called when it is over, also if it was cancelled before it began.
        """

    def cancellation_of_child(self, cancelled: BaseException) -> BaseException:
        """What a child that was cancelled is to raise for that in a container of tasks."""
        return cancelled

    @abstractmethod
    def open_tasks(self) -> AbstractAsyncContextManager[HostTasks]:
        """A container for tasks."""

    @abstractmethod
    def open_scope(self, deadline: float, shield: bool) -> HostScope:
        """A cancel scope of the host's; `deadline` in seconds of `time.monotonic()`."""

    @abstractmethod
    def deadline_here(self) -> Callable[[], float]:
        """Tells, when called, the effective deadline where the host's running task is now.

        In seconds of `time.monotonic()`. To be called in the host's OS thread, by green threads,
        too, at any time: scopes may be moved, shielded and cancelled meanwhile.
        """

    def current_effective_deadline(self) -> float:
        """The deadline of the running task, in seconds of `time.monotonic()`."""
        return self.deadline_here()()

    @abstractmethod
    def task_identity(self) -> int:
        """What tells the host's running task from others; 0 outside one and in green threads."""

    @abstractmethod
    def all_tasks(self) -> list[HostTask]:
        """The host's tasks that have not ended, as far as it tells. From any OS thread."""

    @abstractmethod
    def current_task(self) -> HostTask | None:
        """The host's running task, for people and tools; `None` outside one."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """The host's own sleep; zero is a checkpoint."""

    @abstractmethod
    async def wait_all_tasks_blocked(self, cushion: float) -> None:
        """Waits until all other tasks, the host's and ours, have waited for `cushion` seconds."""

    async def checkpoint_if_cancelled(self) -> None:
        """Raises if the host's running task is cancelled, as far as its scopes can tell."""
        if self.current_effective_deadline() == -math.inf:
            await self.sleep(0)

    async def cancel_shielded_checkpoint(self) -> None:
        """Lets the others run without hearing of a cancellation."""
        with self.open_scope(math.inf, True):
            await self.sleep(0)


def check_name(name: str) -> str:
    """`name`, if there is such a backend."""
    if name not in BACKENDS:
        raise AeventError(
            f"there is no backend {name!r}: choose one of {', '.join(map(repr, BACKENDS))}"
        )
    return name


#: What `load` has found. Before Python 3.11, to ask the import system even for a module that is
#: loaded takes the one import lock, which another OS thread may hold while its finder waits.
_loaded: dict[str, type[Backend]] = {}


def load(name: str) -> type[Backend]:
    """The adapter called `name`. Imports its host, and no other."""
    check_name(name)
    adapter = _loaded.get(name)
    if adapter is None:
        adapter = importlib.import_module(f"._backends.{name}_backend", __package__).ADAPTER
        _loaded[name] = adapter
    return adapter


def current_host() -> HostBackend:
    """The adapter that drives the calling thread's loop; an error if there is none."""
    host = _core.get_host()
    if host is None:
        raise AeventError(
            "this needs a runner: put 'async with aevent.runner():' around this code, or start the "
            "program with aevent.run()."
        )
    assert isinstance(host, HostBackend)
    return host


def in_task_of_ours() -> bool:
    """Whether the running task is stepped by us, not by a host."""
    return _core.task_kind() in ("coroutine", "green")


@_core.shortcut
async def wait(wait: _core.Wait) -> Any:
    """Waits for `wait` in whichever task runs this, and returns what it was for.

    Cancellation gives the wait up. Not a checkpoint if the wait is over already: the caller sees to
    that.
    """
    if in_task_of_ours():
        return await wait
    host = current_host()
    waker = _core.HostWaker()
    try:
        while not wait.poll(waker):
            await host.park(waker)
    except BaseException:
        wait.cancel()
        raise
    return wait.result()


async def wait_as_checkpoint(wait_for: _core.Wait) -> Any:
    """`wait`, and a checkpoint also if it is over at once.

    Cancellation is raised before anything is taken. What was taken is the caller's, even if he is
    cancelled while the others run.
    """
    if in_task_of_ours():
        return await wait_for
    await checkpoint_if_cancelled()
    if not wait_for.poll(_core.HostWaker()):
        return await wait(wait_for)
    result = wait_for.result()
    await cancel_shielded_checkpoint()
    return result


_core.set_wait_on_host(wait_as_checkpoint)


@_core.shortcut
async def checkpoint() -> None:
    """Lets other tasks run, and raises if the running one is cancelled.

    A cancellation is raised before, and one that comes meanwhile after the others have run.
    Semantics `trio.lowlevel.checkpoint`'s.
    """
    if in_task_of_ours():
        await _core.Checkpoint()
    else:
        await current_host().sleep(0)


async def checkpoint_if_cancelled() -> None:
    """Raises if the running task is cancelled, and otherwise does nothing. Half a checkpoint."""
    if in_task_of_ours():
        _core.checkpoint_if_cancelled()
    else:
        await current_host().checkpoint_if_cancelled()


async def cancel_shielded_checkpoint() -> None:
    """Lets other tasks run, and does not hear of a cancellation. The other half of a checkpoint."""
    if in_task_of_ours():
        await _core.shielded_checkpoint()
    else:
        await current_host().cancel_shielded_checkpoint()
