"""The asyncio backend: the standard library's loop, uvloop, or any other with `add_reader`."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import sys
from asyncio import events
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar

import anyio
import sniffio

from aevent import _core
from aevent._backend import HostBackend, HostScope, HostTask, HostTasks, no_one
from aevent._exceptions import AeventError, RunFinishedError
from aevent._host_scopes import cancel, change, note

from .asyncio_deadlines import Place, earliest, notice_timeouts, timeouts_of_running_task

T = TypeVar("T")

#: How many turns of the loop in which nobody was ready make us believe that nobody will be: each
#: asks the kernel for news, and what it tells takes a turn or two to reach a task.
_QUIET_TURNS = 5


class AnyioScope:
    """A host's cancel scope, by anyio, which delivers it through `Task.cancel` and `uncancel`.

    anyio's own is made when the scope is entered: it asks for the running loop, which a green
    thread that spawns a task does not see.
    """

    def __init__(
        self,
        host: AsyncioBackend,
        scope: anyio.CancelScope | None = None,
        *,
        deadline: float = math.inf,
        shield: bool = False,
    ) -> None:
        self._host = host
        self._scope = scope
        self._deadline = deadline
        self._shield = shield
        self._cancel_called = False
        self.is_left = False
        self._beyond: Callable[[], float] | None = None

    @property
    def cancel_called(self) -> bool:
        if self._scope is None:
            return self._cancel_called
        # anyio's waits for the loop's timer.
        if not self.is_left and _core.current_time() >= self._deadline:
            self.cancel()
            return True
        return self._scope.cancel_called

    @property
    def cancelled_caught(self) -> bool:
        return self._scope is not None and self._scope.cancelled_caught

    def cancel(self) -> None:
        if self._scope is None:
            self._cancel_called = True
        else:
            cancel(self._host, self._scope)

    def set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        self._set("deadline", self._host.in_its_clock(deadline))

    def set_shield(self, shield: bool) -> None:
        self._shield = shield
        self._set("shield", shield)

    def set_beyond(self, deadline: Callable[[], float] | None) -> None:
        self._beyond = deadline
        if self._scope is not None:
            note(self._scope).beyond = deadline

    def _set(self, name: str, value: object) -> None:
        if self._scope is not None:
            change(self._host, self._scope, name, value)

    def __enter__(self) -> object:
        deadline = self._host.in_its_clock(self._deadline)
        with _asyncio_is_running():
            self._scope = anyio.CancelScope(deadline=deadline, shield=self._shield)
        if self._beyond is not None:
            note(self._scope).beyond = self._beyond
        if self._cancel_called:
            self._scope.cancel()
        return self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._scope is not None
        self.is_left = True
        return self._scope.__exit__(kind, error, traceback)


@contextmanager
def _asyncio_is_running() -> Iterator[None]:
    """Tells anyio, which asks which library runs. Outside a task, as where a green thread has asked
    for something, asyncio itself cannot tell; and a task may be about to run trio."""
    former, sniffio.thread_local.name = sniffio.thread_local.name, "asyncio"
    try:
        yield
    finally:
        sniffio.thread_local.name = former


class AnyioTasks:
    """A container of a host's tasks, by anyio."""

    def __init__(self, host: AsyncioBackend, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self.scope: HostScope = AnyioScope(host, group.cancel_scope)
        timeouts = timeouts_of_running_task()
        if timeouts:
            self.scope.set_beyond(functools.partial(earliest, host, timeouts))

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], name: str | None) -> None:
        with _asyncio_is_running():
            self._group.start_soon(make, name=name)


class AsyncioBackend(HostBackend):
    """Drives the scheduler by `add_reader`, and makes tasks wait by futures."""

    name = "asyncio"
    cancelled = asyncio.CancelledError
    run_options = frozenset({"clock", "debug", "loop_factory"})

    def __init__(self) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The tick that is to come because the last one left tasks ready.
        self._next: asyncio.Handle | None = None
        self._task_factory: Any = None
        self._former_factory: Any = None
        #: How many tasks are in `portals_in_tree`, and the factory that is set for them.
        self._trees = 0
        self._tree_factory: Any = None

    def run(self, main: Callable[[], Awaitable[T]], name: str, options: dict[str, Any]) -> T:
        # anyio imports what it needs for asyncio when it is first asked. Not in a wait: an
        # interrupt in the middle of that import would be raised in it; nor while the loop runs:
        # it takes a while.
        with _asyncio_is_running():
            anyio.get_cancelled_exc_class()

        async def coroutine() -> T:
            task = asyncio.current_task()
            assert task is not None
            task.set_name(name)
            return await main()

        if "loop_factory" in options and sys.version_info < (3, 11):
            with _first_loop_by(options.pop("loop_factory")):
                return asyncio.run(coroutine(), **options)
        if sys.version_info >= (3, 11):
            with asyncio.Runner(**options) as runner:
                return runner.run(coroutine())
        return asyncio.run(coroutine(), **options)

    def in_its_clock(self, deadline: float) -> float:
        """A deadline of `time.monotonic()` in the loop's clock."""
        if math.isinf(deadline):
            return deadline
        assert self._loop is not None
        return self._loop.time() + deadline - _core.current_time()

    def in_our_clock(self, deadline: float) -> float:
        """A deadline of the loop's clock in seconds of `time.monotonic()`."""
        if math.isinf(deadline) or self._loop is None:
            return deadline
        return _core.current_time() + deadline - self._loop.time()

    def begin_ticking(self) -> None:
        notice_timeouts()
        self._loop = loop = asyncio.get_running_loop()
        loop.add_reader(_core.loop_fd(), self._readable)
        self._next = loop.call_soon(self._turn)
        if self.portals_for_all:
            for task in asyncio.all_tasks(loop):
                # One that hides its coroutine goes without; per_task() in it says so.
                with suppress(RuntimeError):
                    self.install_portal(task)
        # An eager task makes its first step in another task's. It needs a portal of its own for
        # that: else its synchronous calls would park the other in the middle of asyncio's code.
        if self.portals_for_all or is_eager(loop.get_task_factory()):
            former = self._former_factory = loop.get_task_factory()
            self._task_factory = portal_factory(self, former)
            loop.set_task_factory(self._task_factory)

    def end_ticking(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(_core.loop_fd())
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._task_factory is not None and self._loop.get_task_factory() is self._task_factory:
            self._loop.set_task_factory(self._former_factory)
        self._task_factory = None
        self._loop = None

    def _readable(self) -> None:
        # One that follows another comes in the same turn of the loop. A second one would leave a
        # tick to come as well, and so on: the loop itself would be left ever fewer turns.
        if self._next is None:
            self._turn()

    def _turn(self) -> None:
        self._next = None
        loop = self._loop
        if loop is not None and self.tick() and self._loop is loop:
            self._next = loop.call_soon(self._turn)

    def hide(self) -> None:
        events._set_running_loop(None)

    def show(self) -> None:
        events._set_running_loop(self._loop)

    def calling_anyio(self) -> AbstractContextManager[None]:
        return _asyncio_is_running()

    @property
    def loop_clock(self) -> Any:
        return self._loop

    @property
    def gives_portals(self) -> bool:
        return self._task_factory is not None

    def is_running(self) -> bool | None:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return None

    def has_portal(self, task: Any) -> bool:
        return isinstance(task, asyncio.Future) and isinstance(
            getattr(task, "get_coro", lambda: None)(), _core.Portal
        )

    def install_portal(self, task: Any = None) -> None:
        if task is None:
            task = asyncio.current_task()
        if task is None:
            raise AeventError("aevent.per_task() was called outside an asyncio task")
        if not hasattr(task, "get_coro"):
            raise AeventError(f"{task!r} is no task of asyncio, which drives this thread's loop")
        if self.has_portal(task) or task.done():
            return
        coroutine = task.get_coro()
        portal = self.portal(coroutine)
        if isinstance(task, _CTask):
            _core.replace_coroutine(task, _CTask.get_coro, portal)
        elif getattr(task, "_coro", None) is coroutine:
            # asyncio's task in Python.
            task._coro = portal
        if task.get_coro() is not portal:
            raise AeventError(
                f"the coroutine of {type(task).__name__} cannot be replaced. Start the task with "
                "TaskGroup.spawn(), or the program with aevent.run()."
            )

    @contextmanager
    def portals_in_tree(self) -> Iterator[None]:
        assert self._loop is not None
        loop = self._loop
        if self._trees == 0 and self._task_factory is None:
            self._former_factory = loop.get_task_factory()
            self._tree_factory = portal_factory(self, self._former_factory, _is_in_tree.get)
            loop.set_task_factory(self._tree_factory)
        self._trees += 1
        token = _is_in_tree.set(True)
        try:
            yield
        finally:
            _is_in_tree.reset(token)
            self._trees -= 1
            if self._trees == 0 and self._tree_factory is not None:
                if loop.get_task_factory() is self._tree_factory:
                    loop.set_task_factory(self._former_factory)
                self._tree_factory = None

    async def park(self, waker: _core.HostWaker) -> None:
        future = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        if not waker.arm(wake):
            return
        try:
            await future
        finally:
            waker.disarm()

    def is_waiting(self, frame: FrameType | None) -> bool:
        inner = frame
        while frame is not None and _module(frame) in _WAITING:
            frame = frame.f_back
        if frame is None:
            return True
        if frame is not inner:
            return _module(frame) == "asyncio.base_events"
        # uvloop waits in C; what called it is the innermost frame then.
        return _module(frame) in ("asyncio.runners", "uvloop")

    def is_below_tasks(self, frame: FrameType) -> bool:
        name = frame.f_code.co_name
        return (_module(frame), name) in _BELOW_TASKS

    def task_in(self, frame: FrameType | None) -> HostTask | None:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        return None if task is None else describe(task)

    def spawn_detached(
        self, coroutine: Coroutine[Any, Any, None], ended: Callable[[], object] = no_one
    ) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        _detached.add(task)
        task.add_done_callback(_detached.discard)
        task.add_done_callback(lambda _: ended())

    def cancellation_of_child(self, cancelled: BaseException) -> BaseException:
        # What it is given stays in a reference cycle of anyio's: not with all the child's frames.
        return asyncio.CancelledError(*cancelled.args)

    @asynccontextmanager
    async def open_tasks(self) -> AsyncIterator[HostTasks]:
        async with anyio.create_task_group() as group:
            yield AnyioTasks(self, group)

    def open_scope(self, deadline: float, shield: bool) -> HostScope:
        return AnyioScope(self, deadline=deadline, shield=shield)

    def deadline_here(self) -> Callable[[], float]:
        return Place(self)

    async def checkpoint_if_cancelled(self) -> None:
        if anyio.current_effective_deadline() == -math.inf:
            await self.sleep(0)

    def task_identity(self) -> int:
        """What tells the running host task from others, 0 outside one."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return 0
        return 0 if task is None else id(task)

    def run_soon(self, fn: Callable[[], object]) -> None:
        loop = self._loop
        if loop is None:
            raise RunFinishedError("the loop that was to be called has ended")
        try:
            loop.call_soon_threadsafe(fn)
        except RuntimeError:
            raise RunFinishedError("the loop that was to be called has ended") from None

    def all_tasks(self) -> list[HostTask]:
        return (
            [] if self._loop is None else [describe(task) for task in asyncio.all_tasks(self._loop)]
        )

    def current_task(self) -> HostTask | None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return None
        return None if task is None else describe(task)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def wait_all_tasks_blocked(self, cushion: float) -> None:
        wait_quiet = getattr(self._loop, "wait_quiet", None)
        if wait_quiet is not None:
            # A loop for tests knows.
            await wait_quiet(cushion)
            return
        # anyio asks each task what it waits for, but not the loop what it is about to call, and
        # knows nothing of ours.
        quiet = 0
        while quiet < _QUIET_TURNS:
            await anyio.wait_all_tasks_blocked()
            await asyncio.sleep(cushion if quiet == _QUIET_TURNS - 2 else 0)
            quiet = quiet + 1 if _core.statistics().get("ready", 0) == 0 else 0


def describe(task: asyncio.Task[Any]) -> HostTask:
    """What asyncio tells of a task. Whose child it is, it does not know."""
    get_context = getattr(task, "get_context", None)  # since 3.12
    context = None if get_context is None else get_context()
    return HostTask(task, task.get_name(), task.get_coro(), context, None)


# Where the loop waits, and what of it is below its tasks.
_WAITING = frozenset({"selectors", "aevent._monkey.selectors", "aevent._monkey.nested_loops"})
_BELOW_TASKS = frozenset(
    {
        ("asyncio.events", "_run"),
        ("asyncio.base_events", "_run_once"),
        ("asyncio.runners", "run"),
        ("uvloop", "run"),
    }
)


def _module(frame: FrameType) -> str | None:
    return frame.f_globals.get("__name__")


# asyncio refers to its tasks weakly.
_detached: set[asyncio.Task[None]] = set()


#: Set in what is called by `portals_in_tree`, and in whatever inherits its context.
_is_in_tree: contextvars.ContextVar[bool] = contextvars.ContextVar("_is_in_tree", default=False)


def portal_factory(
    host: HostBackend, former: Any, is_wanted: Callable[[], bool] = lambda: True
) -> Any:
    """A task factory that gives each task a portal, and does what `former` does otherwise."""

    def with_portal(coroutine: Any) -> Any:
        if not is_wanted():
            return coroutine
        if isinstance(coroutine, _core.Portal) or not isinstance(coroutine, Coroutine):
            return coroutine
        return host.portal(coroutine)

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if former is None:
            return asyncio.Task(with_portal(coroutine), loop=loop, **options)
        return former(loop, with_portal(coroutine), **options)

    if sys.version_info >= (3, 12) and is_eager(former):
        # anyio knows an eager factory by its code, and has to know it. So this is one, too: it
        # calls the constructor that the former is for.
        (constructor,) = (cell.cell_contents for cell in former.__closure__)

        def construct(coroutine: Any, /, **options: Any) -> Any:
            return constructor(with_portal(coroutine), **options)

        return asyncio.create_eager_task_factory(construct)
    return factory


def is_eager(factory: Any) -> bool:
    """Whether it is a task factory that `asyncio.create_eager_task_factory` has made."""
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    return eager is not None and getattr(factory, "__code__", None) is eager.__code__


#: asyncio's task in C, where there is one.
_CTask: type[asyncio.Task[Any]] = (
    asyncio.Task if asyncio.Task.__module__ == "_asyncio" else type("_Nothing", (), {})
)


@contextmanager
def _first_loop_by(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[None]:
    """The loop that asyncio makes next is that factory's, for Python 3.10; others are not."""
    former = asyncio.get_event_loop_policy()

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            asyncio.set_event_loop_policy(former)
            return loop_factory()

    asyncio.set_event_loop_policy(Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(former)


ADAPTER = AsyncioBackend
