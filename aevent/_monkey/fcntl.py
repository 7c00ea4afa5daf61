"""`fcntl`: locks on files, without blocking whoever else runs.

There is no event for a file lock that becomes free, and a thread that waits for one in the system
might get it after the task has given up. So a task tries, and tries again after a while that grows.
Those of this process who want the same lock in the same way get it in the order of their asking.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from .. import _core
from . import patcher

_fcntl = fcntl.fcntl
_flock = fcntl.flock
_lockf = fcntl.lockf

#: The commands of `fcntl()` that wait, and those that do the same at once.
_AT_ONCE = {fcntl.F_SETLKW: fcntl.F_SETLK}
if hasattr(fcntl, "F_OFD_SETLKW"):
    _AT_ONCE[fcntl.F_OFD_SETLKW] = fcntl.F_OFD_SETLK

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02

#: Those who wait for a lock: the first tries, the others queue for this.
_turns: weakref.WeakValueDictionary[Hashable, _Turn] = weakref.WeakValueDictionary()


class _Turn:
    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = _core.Lock()


def _number(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()


def until_locked(file: Any, how: Hashable, attempt: Callable[[], Any]) -> Any:
    """Calls `attempt` until it does not raise BlockingIOError or PermissionError.

    `how` is what besides the file tells apart whom the lock would exclude.
    """
    try:
        return attempt()
    except (BlockingIOError, PermissionError):
        status = os.fstat(_number(file))
    key = (status.st_dev, status.st_ino, how)
    turn = _turns.get(key)
    if turn is None:
        turn = _turns[key] = _Turn()
    with turn.lock:
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except (BlockingIOError, PermissionError):
                _core.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)


def flock(fd: Any, operation: Any, /) -> None:
    if not isinstance(operation, int) or operation & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        return _flock(fd, operation)
    until_locked(fd, ("flock", operation), lambda: _flock(fd, operation | fcntl.LOCK_NB))
    return None


def lockf(fd: Any, cmd: Any, len: int = 0, start: int = 0, whence: int = 0, /) -> Any:
    if not isinstance(cmd, int) or cmd & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        return _lockf(fd, cmd, len, start, whence)
    return until_locked(
        fd,
        ("lockf", cmd, len, start, whence),
        lambda: _lockf(fd, cmd | fcntl.LOCK_NB, len, start, whence),
    )


def fcntl_(fd: Any, cmd: Any, arg: Any = 0, /) -> Any:
    at_once = _AT_ONCE.get(cmd) if isinstance(cmd, int) else None
    if at_once is None or isinstance(arg, int):
        return _fcntl(fd, cmd, arg)
    data = bytes(arg) if not isinstance(arg, str) else arg
    return until_locked(fd, ("fcntl", cmd, data), lambda: _fcntl(fd, at_once, arg))


def patch() -> None:
    patcher.function(fcntl, "fcntl", fcntl_)
    patcher.function(fcntl, "flock", flock)
    patcher.function(fcntl, "lockf", lockf)
