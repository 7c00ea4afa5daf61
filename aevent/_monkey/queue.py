"""`queue`: the classes wait through the patched locks; here they learn to serve async code."""

from __future__ import annotations

import _queue
import queue
from collections.abc import Callable
from typing import Any, NoReturn

from .. import _core
from .._backend import checkpoint, wait
from .._scopes import move_on_after
from . import patcher, reimport


async def _when(
    self: queue.Queue[Any],
    condition: Any,
    ready: Callable[[], bool],
    act: Callable[[], Any],
) -> Any:
    await checkpoint()
    while True:
        await self.mutex.async_acquire()  # type: ignore[attr-defined]
        try:
            if ready():
                return act()
            # Listening begins while the lock is held, so no notification can be missed.
            notified = condition._notified_wait()
        finally:
            self.mutex.release()
        try:
            await wait(notified)
        finally:
            # If it was notified but is cancelled, the next waiter is notified instead.
            notified.cancel()


def _is_shut_down(self: queue.Queue[Any]) -> bool:
    return getattr(self, "is_shutdown", False)  # from Python 3.13 on


def _refuse() -> NoReturn:
    raise queue.ShutDown  # type: ignore[attr-defined]


async def _async_get(self: queue.Queue[Any], timeout: float | None = None) -> Any:
    """Takes the next item, waiting if need be. A checkpoint. Cancellation loses no item.

    Raises `queue.Empty` when `timeout` seconds are over, and `queue.ShutDown` (Python 3.13) if the
    queue is shut down and nothing is left.
    """

    def take() -> Any:
        if not self._qsize():
            _refuse()
        item = self._get()
        self.not_full.notify()
        return item

    with move_on_after(timeout):
        return await _when(
            self, self.not_empty, lambda: self._qsize() > 0 or _is_shut_down(self), take
        )
    raise queue.Empty


async def _async_put(self: queue.Queue[Any], item: Any, timeout: float | None = None) -> None:
    """Puts `item`, waiting for room if need be. A checkpoint.

    Raises `queue.Full` when `timeout` seconds are over, and `queue.ShutDown` (Python 3.13) if the
    queue is shut down.
    """

    def put() -> bool:
        if _is_shut_down(self):
            _refuse()
        self._put(item)
        self.unfinished_tasks += 1
        self.not_empty.notify()
        return True

    def has_room() -> bool:
        return self.maxsize <= 0 or self._qsize() < self.maxsize or _is_shut_down(self)

    with move_on_after(timeout):
        await _when(self, self.not_full, has_room, put)
        return
    raise queue.Full


async def _async_join(self: queue.Queue[Any]) -> None:
    """Waits until `task_done` was called for every item. A checkpoint."""
    await _when(self, self.all_tasks_done, lambda: self.unfinished_tasks == 0, lambda: None)


def patch() -> None:
    # It is there that `pickle` looks for it.
    patcher.hybrid(_queue, "SimpleQueue", _core.SimpleQueue)
    # With the exception that ours raises: another `_queue` would have another one.
    reimport.provide(_queue, "SimpleQueue", "Empty")
    patcher.hybrid(queue, "SimpleQueue", _core.SimpleQueue)
    methods = _core.queue_methods(queue)
    for name in ("Queue", "LifoQueue", "PriorityQueue"):
        patcher.keep_in(patcher.in_place(queue, name), *methods)
    for name, method in methods.items():
        # Not `always`: a builtin method cannot be given attributes. The classes have them.
        patcher._set(queue.Queue, name, getattr(queue.Queue, name), method)
    for name, function in (
        ("async_get", _async_get),
        ("async_put", _async_put),
        ("async_join", _async_join),
    ):
        function.__name__ = name
        function.__qualname__ = f"Queue.{name}"
        setattr(queue.Queue, name, function)
