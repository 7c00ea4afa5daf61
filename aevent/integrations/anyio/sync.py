"""anyio's events, locks, semaphores and capacity limiters. Semantics anyio's; not thread-safe."""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import Any

import anyio
from anyio import (
    CapacityLimiterStatistics,
    EventStatistics,
    LockStatistics,
    SemaphoreStatistics,
    WouldBlock,
)

from ... import _core
from .tasks import TaskInfo, current_task_info


class Event(_core.TaskEvent, anyio.Event):  # type: ignore[misc]
    """`anyio.Event`: `_core.TaskEvent`."""

    __slots__ = ()

    def statistics(self) -> EventStatistics:
        return EventStatistics(self._waiters())


async def _yield_shielded() -> None:
    with _core.CancelScope(shield=True):
        await _core.Checkpoint()


class Lock(anyio.Lock):
    """`anyio.Lock`. A release hands it to whoever has waited longest."""

    __slots__ = ("_fast", "_owner", "_waiters")

    def __new__(cls, *, fast_acquire: bool = False) -> Lock:
        return object.__new__(cls)

    def __init__(self, *, fast_acquire: bool = False) -> None:
        self._fast = fast_acquire
        self._owner: TaskInfo | None = None
        self._waiters: deque[tuple[TaskInfo, _core.TaskEvent]] = deque()

    async def acquire(self) -> None:
        _core.checkpoint_if_cancelled()
        task = current_task_info()
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

    def _take(self, task: TaskInfo) -> bool:
        if self._owner is None and not self._waiters:
            self._owner = task
            return True
        if self._owner == task:
            raise RuntimeError("Attempted to acquire an already held Lock")
        return False

    def acquire_nowait(self) -> None:
        if not self._take(current_task_info()):
            raise WouldBlock

    def locked(self) -> bool:
        return self._owner is not None

    def release(self) -> None:
        if self._owner != current_task_info():
            raise RuntimeError("The current task is not holding this lock")
        self._owner = None
        while self._waiters:
            task, event = self._waiters.popleft()
            # One that is cancelled does not want it any more, and will find out.
            if not task.has_pending_cancellation():
                self._owner = task
                event.set()
                return

    def statistics(self) -> LockStatistics:
        return LockStatistics(self.locked(), self._owner, len(self._waiters))


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
    """`anyio.CapacityLimiter`."""

    __slots__ = ("_borrowers", "_total", "_waiters")

    def __new__(cls, total_tokens: float) -> CapacityLimiter:
        return object.__new__(cls)

    def __init__(self, total_tokens: float) -> None:
        self._borrowers: set[object] = set()
        self._waiters: dict[object, _core.TaskEvent] = {}
        self._total: float = 0
        self.total_tokens = total_tokens

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def total_tokens(self) -> float:
        return self._total

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        if not isinstance(value, int) and value != math.inf:
            raise TypeError("total_tokens must be an int or math.inf")
        if value < 0:
            raise ValueError("total_tokens must be >= 0")
        self._total = value
        self._grant()

    @property
    def borrowed_tokens(self) -> int:
        return len(self._borrowers)

    @property
    def available_tokens(self) -> float:
        return self._total - len(self._borrowers)

    def acquire_nowait(self) -> None:
        self.acquire_on_behalf_of_nowait(current_task_info())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        if borrower in self._borrowers:
            raise RuntimeError(
                "this borrower is already holding one of this CapacityLimiter's tokens"
            )
        if self._waiters or len(self._borrowers) >= self._total:
            raise WouldBlock
        self._borrowers.add(borrower)

    async def acquire(self) -> None:
        await self.acquire_on_behalf_of(current_task_info())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        _core.checkpoint_if_cancelled()
        try:
            self.acquire_on_behalf_of_nowait(borrower)
        except WouldBlock:
            pass
        else:
            try:
                await _yield_shielded()
            except BaseException:
                self.release_on_behalf_of(borrower)
                raise
            return
        event = _core.TaskEvent()
        self._waiters[borrower] = event
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.release_on_behalf_of(borrower)
            else:
                del self._waiters[borrower]
            raise

    def release(self) -> None:
        self.release_on_behalf_of(current_task_info())

    def release_on_behalf_of(self, borrower: object) -> None:
        try:
            self._borrowers.remove(borrower)
        except KeyError:
            raise RuntimeError(
                "this borrower isn't holding any of this CapacityLimiter's tokens"
            ) from None
        self._grant()

    def _grant(self) -> None:
        while self._waiters and len(self._borrowers) < self._total:
            borrower = next(iter(self._waiters))
            event = self._waiters.pop(borrower)
            self._borrowers.add(borrower)
            event.set()

    def statistics(self) -> CapacityLimiterStatistics:
        return CapacityLimiterStatistics(
            self.borrowed_tokens, self._total, tuple(self._borrowers), len(self._waiters)
        )


def default_limiter(run: Any) -> CapacityLimiter:
    """The limiter of the worker threads of a run."""
    limiter: CapacityLimiter | None = run.default_limiter
    if limiter is None:
        limiter = run.default_limiter = CapacityLimiter(40)
    return limiter
