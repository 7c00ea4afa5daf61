"""`_multiprocessing.SemLock`: the semaphores of processes, waited for by tasks.

A semaphore of the system can be waited for by blocking a thread, and not otherwise. A task
therefore asks without waiting first; if it has to wait it has a real thread do so. Only one task
waits in that way for each object, the others stand in line: many waiting tasks need one thread.
"""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]
from typing import Any

from .. import _core
from . import originals, patcher
from ._thread import get_ident

_original: Any = _multiprocessing.SemLock

_RECURSIVE_MUTEX, _SEMAPHORE = 0, 1

#: Seconds for which a real thread waits before it looks whether somebody still wants it to.
_PATIENCE = 0.25


class SemLock(_original):  # type: ignore[misc]
    """The original, whose owner is a green thread or an OS thread, and for which tasks can wait.

    What the original does for recursive locks goes by OS threads. So to the original each of these
    objects is a plain semaphore, and who owns it how often is kept here.
    """

    _aevent_orig = _original

    def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> SemLock:
        if kind not in (_RECURSIVE_MUTEX, _SEMAPHORE):
            raise ValueError("unrecognized kind")
        self: SemLock = _original.__new__(cls, _SEMAPHORE, value, maxvalue, name, unlink)
        self._prepare(kind)
        return self

    @classmethod
    def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None) -> SemLock:
        self: SemLock = super()._rebuild(handle, _SEMAPHORE, maxvalue, name)
        self._prepare(kind)
        return self

    def _prepare(self, kind: int) -> None:
        self._kind = kind
        self._owner = 0
        self._depth = 0
        self._line = _core.Lock()

    @property
    def kind(self) -> int:
        return self._kind

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the semaphore/lock."""
        me = get_ident()
        if self._kind == _RECURSIVE_MUTEX and self._owner == me and self._depth:
            self._depth += 1
            return True
        if not _take(self, False):
            if not block or (timeout is not None and timeout <= 0):
                return False
            if not (self._wait(timeout) if _core.in_task() else _take(self, True, timeout)):
                return False
        self._owner = me
        self._depth = 1
        return True

    def release(self) -> None:
        """Release the semaphore/lock."""
        if self._kind == _RECURSIVE_MUTEX:
            if self._owner != get_ident() or not self._depth:
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._depth > 1:
                self._depth -= 1
                return
            # First, since whoever gets it next says that it is the owner.
            self._depth = 0
        _give(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def _wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else originals.monotonic() + timeout
        if not self._line.acquire(timeout=-1 if timeout is None else timeout):
            return False
        try:
            # Whoever sets it first decides: the thread that has taken it or the task that gives up.
            end: dict[str, bool] = {}
            try:
                return _core.offload(self._take_in_thread, deadline, end)
            except BaseException:
                if end.setdefault("taken", False):
                    _give(self)
                raise
        finally:
            self._line.release()

    def _take_in_thread(self, deadline: float | None, end: dict[str, bool]) -> bool:
        while True:
            patience = _PATIENCE
            if deadline is not None:
                patience = max(0.0, min(patience, deadline - originals.monotonic()))
            if _take(self, True, patience):
                if end.setdefault("taken", True):
                    return True
                _give(self)
                return False
            if end or (deadline is not None and originals.monotonic() >= deadline):
                return False

    def _count(self) -> int:
        """Num of `acquire()`s minus num of `release()`s for this process."""
        if self._kind == _RECURSIVE_MUTEX:
            return self._depth
        count: int = super()._count()
        return count

    def _is_mine(self) -> bool:
        """Whether the lock is owned by this thread."""
        return self._count() > 0 and self._owner == get_ident()

    def _after_fork(self) -> None:
        """Rezero the net acquisition count after fork()."""
        super()._after_fork()
        self._prepare(self._kind)


SemLock.__module__ = _original.__module__
_take = _original.acquire
_give = _original.release


def patch() -> None:
    patcher.hybrid(_multiprocessing, "SemLock", SemLock)
