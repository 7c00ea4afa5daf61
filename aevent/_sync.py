"""Locks, events, conditions, semaphores and queues for green threads, async tasks and OS threads.

They are the standard library's classes as far as synchronous code is concerned, and stand in its
modules after `setup()`. Async code uses `async with`, or the methods whose names begin with
`async_`. Most of these are in the bindings; here are those that do more than wait.

One object can be waited for by all kinds at the same time, first come, first served.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from . import _core
from ._backend import checkpoint, wait
from ._core import BoundedSemaphore as BoundedSemaphore
from ._core import Condition as Condition
from ._core import Event as Event
from ._core import Lock as Lock
from ._core import RLock as RLock
from ._core import Semaphore as Semaphore
from ._core import SimpleQueue as SimpleQueue


async def _acquire_reentrant(self: RLock) -> bool:
    """Takes it, waiting if need be. A checkpoint. Cancellation leaves it untaken."""
    await checkpoint()
    pending = self._acquire_wait()
    if pending is not None:
        await wait(pending)
        self._acquired_by_wait()
    return True


async def _enter(self: Any) -> Any:
    await self.async_acquire()
    return self


async def _exit(
    self: Any,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    self.release()


async def _condition_acquire(self: Condition) -> bool:
    """Takes the underlying lock. A checkpoint."""
    acquired: bool = await self._lock.async_acquire()
    return acquired


async def _condition_wait(self: Condition) -> bool:
    """Releases the lock, waits for a notification, and takes the lock again. A checkpoint.

    The lock is taken again also when the wait is cancelled.
    """
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    notified = self._notified_wait()
    lock = self._lock
    saved = lock._release_save() if hasattr(lock, "_release_save") else lock.release()
    try:
        await checkpoint()
        await wait(notified)
    finally:
        notified.cancel()
        with _core.CancelScope(shield=True):
            await wait(lock._acquire_wait())
        if saved is not None:
            lock._acquired_by_wait(saved)
    return True


async def _queue_put(self: SimpleQueue[Any], item: Any) -> None:
    """Appends an item. A checkpoint; never waits."""
    await checkpoint()
    self.put(item)


def _attach(kind: type, **methods: Any) -> None:
    """Adds the async methods to a class of the bindings, under their public names."""
    for name, function in methods.items():
        function.__name__ = name
        function.__qualname__ = f"{kind.__name__}.{name}"
        setattr(kind, name, function)


_attach(RLock, async_acquire=_acquire_reentrant, __aenter__=_enter, __aexit__=_exit)
_attach(
    Condition,
    async_acquire=_condition_acquire,
    async_wait=_condition_wait,
    __aenter__=_enter,
    __aexit__=_exit,
)
_attach(SimpleQueue, async_put=_queue_put)
