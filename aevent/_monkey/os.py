"""`os`: reading and writing pipes, terminals and sockets, and waiting for child processes.

Regular files do not wait and go to the original functions. An open file's `O_NONBLOCK` is never
changed, but for the length of one `sendfile()` call. No child is reaped but those asked for.
"""

from __future__ import annotations

import fcntl
import functools
import os
import posix
import select
import sys
import warnings
from collections.abc import Callable
from typing import Any

from .. import _core
from . import patcher

_open = os.open
_sendfile = os.sendfile
_wait3 = os.wait3
_wait4 = os.wait4
_waitid = os.waitid
_waitpid = os.waitpid
_poll = select.poll

#: `open()` never waits for a FIFO's other end with one of these.
_OPENS_AT_ONCE = os.O_NONBLOCK | os.O_PATH | os.O_DIRECTORY


# --- Descriptors ----------------------------------------------------------------------------------


def open_(path: Any, flags: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if (
        isinstance(flags, int)
        and not flags & _OPENS_AT_ONCE
        and flags & os.O_ACCMODE != os.O_RDWR
        and _core.is_fifo(path if dir_fd is None else _below(path, dir_fd))
    ):
        return _open_fifo(path, flags, mode, dir_fd)
    return _open(path, flags, mode, dir_fd=dir_fd)


def _below(path: Any, dir_fd: int) -> Any:
    """What stands for `path` in the directory `dir_fd`."""
    if isinstance(path, int) or not isinstance(dir_fd, int):
        return path
    return os.path.join(b"/proc/self/fd/%d" % dir_fd, os.fsencode(path))


def _open_fifo(path: Any, flags: int, mode: int = 0o777, dir_fd: int | None = None) -> int:
    sys.audit("open", path, None, flags)
    name = os.fsencode(path if dir_fd is None else _below(path, dir_fd))
    try:
        return _core.open_fifo(name, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _is_ready(fd: int, events: int) -> bool:
    poll = _poll()
    poll.register(fd, events)
    return bool(poll.poll(0))


def _wait_ready(fd: int, events: int) -> None:
    """Parks until a blocking file is ready. One that is not open or not blocking counts as that."""
    try:
        if not os.get_blocking(fd):
            return
    except OSError:
        return
    while not _is_ready(fd, events):
        _core.wait_descriptors([(fd, bool(events & select.POLLIN), bool(events & select.POLLOUT))])


def sendfile(out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
    try:
        waits = os.get_blocking(out_fd)
    except OSError:
        waits = False
    if not waits or _is_straight(out_fd):
        return _sendfile(out_fd, in_fd, offset, count)
    total = 0
    while True:
        _wait_ready(in_fd, select.POLLIN)
        try:
            # There is no flag that would do for the one call.
            os.set_blocking(out_fd, False)
            try:
                sent = _sendfile(out_fd, in_fd, offset, count - total)
            finally:
                os.set_blocking(out_fd, True)
        except BlockingIOError:
            try:
                _core.wait_descriptors([(out_fd, False, True)])
            except _core.Cancelled:
                if not total:
                    raise
                # As a signal would: what was sent is said, and the next call that waits raises.
                return total
            continue
        except OSError:
            if not total:
                raise
            return total
        total += sent
        if not sent or total >= count:
            return total
        if offset is not None:
            offset += sent


def _is_straight(fd: int) -> bool:
    """Whether writing to it waits for nobody: a regular file, for one."""
    kind = os.fstat(fd).st_mode & 0o170000
    return kind in (0o100000, 0o040000, 0o060000)


def _make_splice(original: Callable[..., int]) -> Callable[..., int]:
    def splice(
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
        flags: int = 0,
    ) -> int:
        if flags & _SPLICE_F_NONBLOCK:
            return original(src, dst, count, offset_src, offset_dst, flags)
        while True:
            _wait_ready(src, select.POLLIN)
            _wait_ready(dst, select.POLLOUT)
            try:
                return original(src, dst, count, offset_src, offset_dst, flags | _SPLICE_F_NONBLOCK)
            except BlockingIOError:
                if not (os.get_blocking(src) and os.get_blocking(dst)):
                    raise
                # Ready for somebody who was quicker.
                _core.checkpoint()

    return splice


_SPLICE_F_NONBLOCK = 2


def _make_eventfd_read(original: Callable[[int], int]) -> Callable[[int], int]:
    def eventfd_read(fd: int) -> int:
        _wait_ready(fd, select.POLLIN)
        return original(fd)

    return eventfd_read


def _make_eventfd_write(original: Callable[[int, int], None]) -> Callable[[int, int], None]:
    def eventfd_write(fd: Any, value: Any) -> None:
        if isinstance(fd, int) and _is_ready(fd, select.POLLOUT):
            # Room for one at least; only a huge value can be too much.
            if value < 2**32:
                return original(fd, value)
        _core.offload(original, fd, value)
        return None

    return eventfd_write


# --- Locks on files -------------------------------------------------------------------------------


def _make_lockf(original: Callable[[int, int, int], None]) -> Callable[[int, int, int], None]:
    def lockf(fd: int, command: int, length: int, /) -> None:
        if command != os.F_LOCK:
            return original(fd, command, length)
        try:
            original(fd, os.F_TLOCK, length)
        except (BlockingIOError, PermissionError):
            kind, whence = fcntl.F_WRLCK, os.SEEK_CUR
            _core.wait_record_lock(fd, fcntl.F_SETLK, kind, whence, 0, length)
        return None

    return lockf


# --- Child processes ------------------------------------------------------------------------------


def _wait_child(pid: int, options: int) -> None:
    """Parks until `waitpid(pid, options)` may have something to tell."""
    if pid > 0:
        which, number = os.P_PID, pid
    elif pid == -1:
        which, number = os.P_ALL, 0
    else:
        which, number = os.P_PGID, -pid or os.getpgrp()
    _core.wait_child(which, number, options & ~os.WNOHANG | os.WEXITED)


def _ask_until_told(ask: Callable[[int], Any], pid: int, options: int) -> Any:
    """What `ask(options)`, which does not wait, says of children when it has something to say."""
    while True:
        found = ask(options | os.WNOHANG)
        if found[0]:
            return found
        if options & os.WNOHANG:
            _core.breathe()
            return found
        _wait_child(pid, options)


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    told: tuple[int, int] = _ask_until_told(functools.partial(_waitpid, pid), pid, options)
    return told


def wait() -> tuple[int, int]:
    return waitpid(-1, 0)


def wait3(options: int) -> tuple[int, int, Any]:
    told: tuple[int, int, Any] = _ask_until_told(_wait3, -1, options)
    return told


def wait4(pid: int, options: int) -> tuple[int, int, Any]:
    told: tuple[int, int, Any] = _ask_until_told(functools.partial(_wait4, pid), pid, options)
    return told


def waitid(idtype: int, id: int, options: int, /) -> Any:
    while True:
        found = _waitid(idtype, id, options | os.WNOHANG)
        if found is not None:
            return found
        if options & os.WNOHANG:
            _core.breathe()
            return None
        kinds = options & ~(os.WNOHANG | os.WNOWAIT)
        if idtype == getattr(os, "P_PIDFD", None) and kinds == os.WEXITED:
            _core.wait_descriptors([(id, True, False)])
        elif idtype == os.P_PGID and id == 0:
            _core.wait_child(idtype, os.getpgrp(), kinds)
        else:
            _core.wait_child(idtype, id, kinds)


def _make_system(original: Callable[[Any], int]) -> Callable[[Any], int]:
    def system(command: Any) -> int:
        status: int = _core.offload(original, command)
        return status

    return system


#: As the system knows the threads that wait for us where nothing else can.
_HELPERS = ("aevent-offload", "async-io", "blocking-")


def _has_only_helpers() -> bool:
    """Whether this is the only thread of the process, but for those that are nobody's business."""
    others = 0
    for number in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{number}/comm", encoding="utf-8", errors="replace") as file:
            others += not file.read().startswith(_HELPERS)
    return others == 1


def _make_fork(original: Callable[[], Any]) -> Callable[[], Any]:
    """Since 3.12 it warns if the system knows of more threads than one: of ours, too."""

    def fork() -> Any:
        # Before: a helper that begins meanwhile is harmless, and one that ends might be missed.
        try:
            quiet = _has_only_helpers()
        except OSError:
            quiet = False  # no /proc, or a thread that just ended
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = original()
        for warning in caught:
            if not (quiet and warning.category is DeprecationWarning):
                warnings.warn(warning.message, stacklevel=2)
        return result

    return fork


#: Sets of functions, by which programs ask what is possible.
_FEATURES = (
    os.supports_dir_fd,
    os.supports_effective_ids,
    os.supports_fd,
    os.supports_follow_symlinks,
)

# --- Patching -------------------------------------------------------------------------------------


def patch() -> None:
    replacements: dict[str, Any] = {
        "close": _core.os_close,
        "open": open_,
        "read": _core.os_read,
        "readv": _core.os_readv,
        "sendfile": sendfile,
        "system": _make_system(os.system),
        "wait": wait,
        "wait3": wait3,
        "wait4": wait4,
        "waitid": waitid,
        "waitpid": waitpid,
        "write": _core.os_write,
        "writev": _core.os_writev,
        "lockf": _make_lockf(os.lockf),
    }
    if sys.version_info >= (3, 12):
        replacements["fork"] = _make_fork(os.fork)
        replacements["forkpty"] = _make_fork(os.forkpty)
    # As far as the C library has them.
    for name, make in (
        ("eventfd_read", _make_eventfd_read),
        ("eventfd_write", _make_eventfd_write),
        ("splice", _make_splice),
    ):
        if hasattr(os, name):
            replacements[name] = make(getattr(os, name))
    for name, new in replacements.items():
        original = getattr(os, name)
        # `os` has most of its functions from `posix`, by which name they are pickled.
        patcher.function(os, name, new, also=posix)
        for functions in _FEATURES:
            if original in functions:
                functions.add(getattr(os, name))
