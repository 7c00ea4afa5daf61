"""The trio backend."""

from __future__ import annotations

import contextvars
import functools
import inspect
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

import trio

from aevent import _core
from aevent._backend import HostBackend, HostScope, HostTask, HostTasks, no_one
from aevent._exceptions import AeventError, RunFinishedError
from aevent._host_scopes import cancel, change, effective_deadline, note

T = TypeVar("T")


class TrioScope:
    """A trio cancel scope."""

    def __init__(self, host: TrioBackend, scope: trio.CancelScope) -> None:
        self._host = host
        self._scope = scope
        self._cancel_called = False
        self.is_left = False

    @property
    def cancel_called(self) -> bool:
        try:
            return self._scope.cancel_called
        except RuntimeError:
            # trio looks at its clock, which it does not show to a green thread.
            return self._cancel_called

    @property
    def cancelled_caught(self) -> bool:
        return self._scope.cancelled_caught

    def cancel(self) -> None:
        self._cancel_called = True
        cancel(self._host, self._scope)

    def set_deadline(self, deadline: float) -> None:
        change(self._host, self._scope, "deadline", self._host.in_its_clock(deadline))

    def set_shield(self, shield: bool) -> None:
        change(self._host, self._scope, "shield", shield)

    def set_beyond(self, deadline: Callable[[], float] | None) -> None:
        note(self._scope).beyond = deadline

    def __enter__(self) -> object:
        return self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self.is_left = True
        return self._scope.__exit__(kind, error, traceback)


class TrioTasks:
    """A nursery."""

    def __init__(self, host: TrioBackend, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.scope: HostScope = TrioScope(host, nursery.cancel_scope)

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], name: str | None) -> None:
        self._nursery.start_soon(make, name=name)


def _scopes(status: Any) -> Iterator[trio.CancelScope]:
    """The scope of a `CancelStatus` of trio's, and those around it."""
    while status is not None:
        yield status._scope
        status = status.parent


class TrioBackend(HostBackend):
    """Drives the scheduler from a system task, and makes tasks wait by `wait_task_rescheduled`."""

    name = "trio"
    cancelled = trio.Cancelled
    run_options = frozenset(
        name
        for name, parameter in inspect.signature(trio.run).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    )

    def __init__(self) -> None:
        super().__init__()
        self._ticker: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._instrument: _PortalsForAll | None = None
        self._root: trio.lowlevel.Task | None = None
        self._clock: trio.abc.Clock | None = None
        self._follower: _Follower | None = None

    def run(self, main: Callable[[], Awaitable[T]], name: str, options: dict[str, Any]) -> T:
        async def named() -> T:
            trio.lowlevel.current_task().name = name
            return await main()

        return trio.run(named, **options)

    def begin_ticking(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._root = trio.lowlevel.current_root_task()
        self._clock = clock = trio.lowlevel.current_clock()
        testing = sys.modules.get("trio.testing")  # else there is no such clock
        if testing is not None and isinstance(clock, testing.MockClock):
            self._follower = _Follower(clock)
            trio.lowlevel.add_instrument(self._follower)
        self._ticker = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._turns, self._ticker, name="aevent scheduler")
        if self.portals_for_all:
            self._instrument = _PortalsForAll(self)
            trio.lowlevel.add_instrument(self._instrument)

    def end_ticking(self) -> None:
        assert self._ticker is not None
        if self._instrument is not None:
            trio.lowlevel.remove_instrument(self._instrument)
            self._instrument = None
        if self._follower is not None:
            trio.lowlevel.remove_instrument(self._follower)
            self._follower.end()
            self._follower = None
        self._ticker.cancel()
        self._ticker = None
        self._token = self._root = self._clock = None

    async def _turns(self, scope: trio.CancelScope) -> None:
        descriptor = _core.loop_fd()
        with scope:
            while not scope.cancel_called:
                if self.tick():
                    await trio.lowlevel.checkpoint()
                elif self._follower is not None:
                    with trio.move_on_at(self._follower.next_deadline()):
                        await trio.lowlevel.wait_readable(descriptor)
                else:
                    await trio.lowlevel.wait_readable(descriptor)

    @property
    def loop_clock(self) -> Any:
        return self._clock

    @property
    def gives_portals(self) -> bool:
        return self._instrument is not None

    def is_running(self) -> bool | None:
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return None

    def has_portal(self, task: Any) -> bool:
        return isinstance(getattr(task, "coro", None), _core.Portal)

    def install_portal(self, task: Any = None) -> None:
        if task is None:
            task = trio.lowlevel.current_task()
        if not isinstance(task, trio.lowlevel.Task):
            raise AeventError(f"{task!r} is no task of trio, which drives this thread's loop")
        if not self.has_portal(task):
            task.coro = self.portal(task.coro)  # type: ignore[assignment]

    @contextmanager
    def portals_in_tree(self) -> Iterator[None]:
        instrument = _PortalsInTree(self, trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)

    async def park(self, waker: _core.HostWaker) -> None:
        task = trio.lowlevel.current_task()
        if not waker.arm(functools.partial(trio.lowlevel.reschedule, task)):
            return

        def abort(raise_cancel: object) -> trio.lowlevel.Abort:
            waker.disarm()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def is_waiting(self, frame: FrameType | None) -> bool:
        return frame is None or frame.f_globals.get("__name__") in _WAITING

    def is_below_tasks(self, frame: FrameType) -> bool:
        return frame.f_code.co_name == "unrolled_run" and _is_trios(frame)

    def task_in(self, frame: FrameType | None) -> HostTask | None:
        while frame is not None and not self.is_below_tasks(frame):
            frame = frame.f_back
        task = None if frame is None else frame.f_locals.get("task")
        return describe(task) if isinstance(task, trio.lowlevel.Task) else None

    def spawn_detached(
        self, coroutine: Coroutine[Any, Any, None], ended: Callable[[], object] = no_one
    ) -> None:
        async def run() -> None:
            try:
                await coroutine
            finally:
                ended()

        trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())

    @asynccontextmanager
    async def open_tasks(self) -> AsyncIterator[HostTasks]:
        async with trio.open_nursery() as nursery:
            yield TrioTasks(self, nursery)

    def open_scope(self, deadline: float, shield: bool) -> HostScope:
        deadline = self.in_its_clock(deadline)
        return TrioScope(self, trio.CancelScope(deadline=deadline, shield=shield))

    def in_its_clock(self, deadline: float) -> float:
        """A deadline of `time.monotonic()` in trio's clock."""
        if math.isinf(deadline) or self._clock is None:
            return deadline
        return self._clock.current_time() + deadline - _core.current_time()

    def in_our_clock(self, deadline: float) -> float:
        """A deadline of trio's clock in seconds of `time.monotonic()`."""
        if math.isinf(deadline) or self._clock is None:
            return deadline
        return _core.current_time() + deadline - self._clock.current_time()

    def deadline_here(self) -> Callable[[], float]:
        # trio tells the running task only.
        status = trio.lowlevel.current_task()._cancel_status
        return functools.partial(self._effective_deadline, status)

    def _effective_deadline(self, status: Any) -> float:
        if status.effectively_cancelled:
            return -math.inf
        return effective_deadline(self, _scopes(status))

    def task_identity(self) -> int:
        """What tells the running host task from others, 0 outside one."""
        try:
            return id(trio.lowlevel.current_task())
        except RuntimeError:
            return 0

    def run_soon(self, fn: Callable[[], object]) -> None:
        if self._token is None:
            raise RunFinishedError("the loop that was to be called has ended")
        try:
            self._token.run_sync_soon(fn)
        except trio.RunFinishedError:
            raise RunFinishedError("the loop that was to be called has ended") from None

    def all_tasks(self) -> list[HostTask]:
        found: list[HostTask] = []
        left = [] if self._root is None else [self._root]
        while left:
            task = left.pop()
            found.append(describe(task))
            for nursery in reversed(task.child_nurseries):
                left.extend(nursery.child_tasks)
        return found

    def current_task(self) -> HostTask | None:
        try:
            return describe(trio.lowlevel.current_task())
        except RuntimeError:
            return None

    async def checkpoint_if_cancelled(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    async def cancel_shielded_checkpoint(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def wait_all_tasks_blocked(self, cushion: float) -> None:
        import trio.testing  # for tests only

        # The task that drives our scheduler only waits when nobody is ready there.
        await trio.testing.wait_all_tasks_blocked(cushion)


def describe(task: trio.lowlevel.Task) -> HostTask:
    """What trio tells of a task."""
    nursery = task.parent_nursery
    parent = None if nursery is None else describe(nursery.parent_task)
    return HostTask(task, task.name, task.coro, task.context, parent)


#: By how many seconds the same time may differ in two clocks.
_ROUNDING = 1e-7


class _Follower(trio.abc.Instrument):
    """Has our time follow a `trio.testing.MockClock`: ours stands still, and is set forward.

    That is done before each step of a task, so nobody finds it behind. trio knows our next
    deadline, to which it may jump.
    """

    def __init__(self, clock: trio.abc.Clock) -> None:
        self._clock = clock
        _core.set_clock(0.0)
        self._ahead = _core.current_time() - clock.current_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        now = self._clock.current_time() + self._ahead
        deadline = _core.statistics()["next_deadline"]
        if deadline < now + 2 * _ROUNDING:
            # Not a nanosecond too little, whichever way a float was rounded.
            now = max(now, deadline) + 1e-9
        left = now - _core.current_time()
        if left > 0:
            _core.jump_clock(left)

    def next_deadline(self) -> float:
        """In trio's time."""
        return _core.statistics()["next_deadline"] - self._ahead - _ROUNDING

    def end(self) -> None:
        """Nothing of ours has a deadline any more."""
        _core.give_up_clock()


class _PortalsForAll(trio.abc.Instrument):
    """Gives a portal to every task that there is below trio's main task, and to each new one."""

    def __init__(self, host: TrioBackend) -> None:
        self._host = host
        # The running task's ancestor below trio's own; from there down, all but system tasks.
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        tasks = []
        while task is not None and task.parent_nursery is not None:
            tasks = [task]
            task = task.parent_nursery.parent_task
        while tasks:
            task = tasks.pop()
            host.install_portal(task)
            for nursery in task.child_nurseries:
                tasks += nursery.child_tasks

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._host.install_portal(task)


class _PortalsInTree(trio.abc.Instrument):
    """Gives a portal to every task that is started below one, in nurseries not open by now."""

    def __init__(self, host: TrioBackend, root: trio.lowlevel.Task) -> None:
        self._host = host
        self._outside = set(root.child_nurseries)
        self._tasks = {root}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        nursery = task.parent_nursery
        if nursery is None or nursery in self._outside or nursery.parent_task not in self._tasks:
            return
        self._tasks.add(task)
        self._host.install_portal(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._tasks.discard(task)


#: Where trio waits for events.
_WAITING = frozenset({"trio._core._io_epoll", "aevent._monkey.nested_loops"})


def _is_trios(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "trio._core._run"


ADAPTER = TrioBackend
