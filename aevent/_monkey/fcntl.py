"""`fcntl`: locks on files, without blocking whoever else runs.

A task tries at once, with the original's errors and audit events. If the lock is somebody
else's, the loop goes on trying for it (`rust/python/src/file_lock.rs`).
"""

from __future__ import annotations

import fcntl
import struct
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

#: The beginning of `struct flock`: type, whence, start and length.
_LOCK = struct.Struct("@hhqq")


def _number(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()


def flock(fd: Any, operation: Any, /) -> None:
    if not isinstance(operation, int) or operation & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        return _flock(fd, operation)
    try:
        return _flock(fd, operation | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _core.wait_flock(_number(fd), operation)


def lockf(fd: Any, cmd: Any, len: int = 0, start: int = 0, whence: int = 0, /) -> Any:
    if not isinstance(cmd, int) or cmd & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        return _lockf(fd, cmd, len, start, whence)
    try:
        return _lockf(fd, cmd | fcntl.LOCK_NB, len, start, whence)
    except (BlockingIOError, PermissionError):
        kind = fcntl.F_WRLCK if cmd & fcntl.LOCK_EX else fcntl.F_RDLCK
        _core.wait_record_lock(_number(fd), fcntl.F_SETLK, kind, whence, start, len)
        return None


def fcntl_(fd: Any, cmd: Any, arg: Any = 0, /) -> Any:
    at_once = _AT_ONCE.get(cmd) if isinstance(cmd, int) else None
    if at_once is None or isinstance(arg, int):
        return _fcntl(fd, cmd, arg)
    try:
        return _fcntl(fd, at_once, arg)
    except (BlockingIOError, PermissionError):
        data = arg.encode() if isinstance(arg, str) else bytes(arg)
        _core.wait_record_lock(
            _number(fd), at_once, *_LOCK.unpack_from(data.ljust(_LOCK.size, b"\0"))
        )
        return data


def patch() -> None:
    patcher.function(fcntl, "fcntl", fcntl_)
    patcher.function(fcntl, "flock", flock)
    patcher.function(fcntl, "lockf", lockf)
