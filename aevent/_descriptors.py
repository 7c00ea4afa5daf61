"""Waiting for descriptors, in async and in synchronous code."""

from __future__ import annotations

import select
from typing import Protocol

from . import _core
from ._backend import wait
from ._monkey import originals


class HasFileno(Protocol):
    """A socket, or anything else with a descriptor."""

    def fileno(self) -> int: ...


def _number(fd_or_sock: int | HasFileno) -> int:
    return fd_or_sock if isinstance(fd_or_sock, int) else fd_or_sock.fileno()


async def wait_readable(fd_or_sock: int | HasFileno) -> None:
    """Waits until reading would not block. A checkpoint.

    Several tasks may wait for the same descriptor, and all are woken. `ClosedResourceError` if
    `notify_closing` is called for it meanwhile, or aevent's patched functions close it; `OSError`
    if it cannot be waited for: EBADF, and EPERM for a regular file.
    """
    await wait(_core.descriptor_wait(_number(fd_or_sock), False))


async def wait_writable(fd_or_sock: int | HasFileno) -> None:
    """Waits until writing would not block. A checkpoint. As `wait_readable`."""
    await wait(_core.descriptor_wait(_number(fd_or_sock), True))


def sync_wait_readable(fd_or_sock: int | HasFileno, timeout: float | None = None) -> bool:
    """`wait_readable` for synchronous code: parks the task, or blocks an OS thread.

    False when `timeout` seconds are over.
    """
    return _wait_sync(_number(fd_or_sock), False, timeout)


def sync_wait_writable(fd_or_sock: int | HasFileno, timeout: float | None = None) -> bool:
    """`wait_writable` for synchronous code, as `sync_wait_readable`."""
    return _wait_sync(_number(fd_or_sock), True, timeout)


def _wait_sync(fd: int, write: bool, timeout: float | None) -> bool:
    if _core.in_task():
        return _core.wait_descriptors([(fd, not write, write)], timeout)
    poll = originals.saved["select"]["poll"]()
    poll.register(fd, select.POLLOUT if write else select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))


def notify_closing(fd_or_sock: int | HasFileno) -> None:
    """Before a descriptor is closed: whoever waits for it is woken by `ClosedResourceError`.

    Synchronous calls that wait for it are woken too, with EBADF. Thread-safe. The patched functions
    of the standard library do it themselves.
    """
    _core.notify_closing(_number(fd_or_sock))
