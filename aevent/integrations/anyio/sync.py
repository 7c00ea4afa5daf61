"""anyio's events, locks, semaphores and capacity limiters. Semantics anyio's; not thread-safe."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import anyio
from anyio import (
    CapacityLimiterStatistics,
    EventStatistics,
    LockStatistics,
    SemaphoreStatistics,
    WouldBlock,
)

from ... import _core
from .tasks import TaskInfo


class Event(_core.TaskEvent, anyio.Event):  # type: ignore[misc]
    """`anyio.Event`: `_core.TaskEvent`."""

    __slots__ = ()

    def statistics(self) -> EventStatistics:
        return EventStatistics(self._waiters())


async def _yield_shielded() -> None:
    with _core.CancelScope(shield=True):
        await _core.Checkpoint()


def _running_task() -> _core.Task:
    task = _core.current_task()
    if task is None:
        raise RuntimeError("no task of aevent's is running")
    return task


class Lock(anyio.Lock):
    """`anyio.Lock`. A release hands it to whoever has waited longest."""

    __slots__ = ("_fast", "_owner", "_waiters")

    def __new__(cls, *, fast_acquire: bool = False) -> Lock:
        return object.__new__(cls)

    def __init__(self, *, fast_acquire: bool = False) -> None:
        self._fast = fast_acquire
        self._owner: _core.Task | None = None
        self._waiters: deque[tuple[_core.Task, _core.TaskEvent]] = deque()

    async def acquire(self) -> None:
        _core.checkpoint_if_cancelled()
        task = _running_task()
        if self._take(task):
            if not self._fast:
                try:
                    await _yield_shielded()
                except BaseException:
                    self.release()
                    raise
            return
        event = _core.TaskEvent()
        entry = (task, event)
        self._waiters.append(entry)
        try:
            await event.wait()
        except BaseException:
            if entry in self._waiters:
                self._waiters.remove(entry)
            elif self._owner == task:
                self.release()
            raise

    def _take(self, task: _core.Task) -> bool:
        if self._owner is None and not self._waiters:
            self._owner = task
            return True
        if self._owner == task:
            raise RuntimeError("Attempted to acquire an already held Lock")
        return False

    def acquire_nowait(self) -> None:
        if not self._take(_running_task()):
            raise WouldBlock

    def locked(self) -> bool:
        return self._owner is not None

    def release(self) -> None:
        if self._owner != _running_task():
            raise RuntimeError("The current task is not holding this lock")
        self._owner = None
        while self._waiters:
            task, event = self._waiters.popleft()
            # One that is cancelled does not want it any more, and will find out.
            if not task.is_cancelled:
                self._owner = task
                event.set()
                return

    def statistics(self) -> LockStatistics:
        owner = None if self._owner is None else TaskInfo(self._owner)
        return LockStatistics(self.locked(), owner, len(self._waiters))


class Semaphore(anyio.Semaphore):
    """`anyio.Semaphore`. A release hands the permit to whoever has waited longest."""

    __slots__ = ("_fast", "_max_value", "_value", "_waiters")

    def __new__(
        cls, initial_value: int, *, max_value: int | None = None, fast_acquire: bool = False
    ) -> Semaphore:
        return object.__new__(cls)

    def __init__(
        self, initial_value: int, *, max_value: int | None = None, fast_acquire: bool = False
    ) -> None:
        super().__init__(initial_value, max_value=max_value, fast_acquire=fast_acquire)
        self._fast = fast_acquire
        self._value = initial_value
        self._max_value = max_value
        self._waiters: deque[_core.TaskEvent] = deque()

    async def acquire(self) -> None:
        _core.checkpoint_if_cancelled()
        if self._value > 0 and not self._waiters:
            self._value -= 1
            if not self._fast:
                try:
                    await _yield_shielded()
                except BaseException:
                    self.release()
                    raise
            return
        event = _core.TaskEvent()
        self._waiters.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.release()
            else:
                self._waiters.remove(event)
            raise

    def acquire_nowait(self) -> None:
        if self._value == 0:
            raise WouldBlock
        self._value -= 1

    @property
    def max_value(self) -> int | None:
        return self._max_value

    @property
    def value(self) -> int:
        return self._value

    def release(self) -> None:
        if self._max_value is not None and self._value == self._max_value:
            raise ValueError("semaphore released too many times")
        if self._waiters:
            self._waiters.popleft().set()
        else:
            self._value += 1

    def statistics(self) -> SemaphoreStatistics:
        return SemaphoreStatistics(len(self._waiters))


class CapacityLimiter(anyio.CapacityLimiter):
    """`anyio.CapacityLimiter`: `aevent.CapacityLimiter`, which worker threads may use, too."""

    __slots__ = ("_limiter",)

    def __new__(cls, total_tokens: float) -> CapacityLimiter:
        return object.__new__(cls)

    def __init__(self, total_tokens: float) -> None:
        # anyio.CapacityLimiter() calls this again.
        self._limiter = _core.CapacityLimiter(total_tokens)

    @classmethod
    def around(cls, limiter: _core.CapacityLimiter) -> CapacityLimiter:
        """The same limiter under anyio's type."""
        self = object.__new__(cls)
        self._limiter = limiter
        return self

    async def __aenter__(self) -> None:
        await self._limiter.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limiter.release()

    @property
    def total_tokens(self) -> float:
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        self._limiter.total_tokens = value

    @property
    def borrowed_tokens(self) -> int:
        return self._limiter.borrowed_tokens

    @property
    def available_tokens(self) -> float:
        return self._limiter.available_tokens

    def acquire_nowait(self) -> None:
        try:
            self._limiter.acquire_nowait()
        except _core.WouldBlock:
            raise WouldBlock from None

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except _core.WouldBlock:
            raise WouldBlock from None

    async def acquire(self) -> None:
        await self._limiter.acquire()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)

    def release(self) -> None:
        self._limiter.release()

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)

    def statistics(self) -> CapacityLimiterStatistics:
        statistics = self._limiter.statistics()
        return CapacityLimiterStatistics(
            statistics.borrowed_tokens,
            statistics.total_tokens,
            statistics.borrowers,
            statistics.tasks_waiting,
        )
