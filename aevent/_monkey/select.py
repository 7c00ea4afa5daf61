"""`select`: `select`, `poll` and `epoll`.

Each asks the original first, without waiting; if nothing is ready, it parks until one of the
descriptors may be, and asks again.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from typing import Any

from .. import _core
from . import originals, patcher

_select = select.select
_poll = select.poll
_READ = select.POLLIN | select.POLLPRI
_WRITE = select.POLLOUT


def _number(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()  # type: ignore[no-any-return]


def select_(
    rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None, /
) -> tuple[list[Any], list[Any], list[Any]]:
    if timeout is not None:
        if not isinstance(timeout, (int, float)) and not hasattr(timeout, "__index__"):
            raise TypeError("timeout must be a float or None")
        if timeout < 0:
            raise ValueError("timeout must be non-negative")
    rlist, wlist, xlist = list(rlist), list(wlist), list(xlist)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        ready = _select(rlist, wlist, xlist, 0)
        if any(ready) or timeout == 0:
            if timeout == 0:
                _core.checkpoint()
            return ready
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return ready
        reading = {_number(file) for file in (*rlist, *xlist)}
        writing = {_number(file) for file in wlist}
        _core.wait_descriptors(
            [(fd, fd in reading, fd in writing) for fd in reading | writing], left
        )


class poll:
    """`select.poll()` objects: the original's, plus the list of what is registered."""

    def __init__(self) -> None:
        self._poll = _poll()
        self._registered: dict[int, int] = {}

    def register(
        self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /
    ) -> None:
        self._poll.register(fd, eventmask)
        self._registered[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        self._poll.modify(fd, eventmask)
        self._registered[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        self._poll.unregister(fd)
        self._registered.pop(_number(fd), None)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        if not _core.in_task():
            return self._poll.poll(timeout)
        ready = self._poll.poll(0)
        if timeout is None or timeout < 0:
            deadline = None
        else:
            deadline = time.monotonic() + timeout / 1000
        while not ready:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            _core.wait_descriptors(
                [
                    (fd, bool(mask & _READ), bool(mask & _WRITE))
                    for fd, mask in self._registered.items()
                ],
                left,
            )
            ready = self._poll.poll(0)
        return ready


def _make_epoll(original: Any) -> Any:
    class epoll:
        """`select.epoll` objects: the original's, waited for through its own descriptor."""

        __slots__ = ("__weakref__", "_epoll")

        def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
            self._epoll = original(sizehint, flags)

        @classmethod
        def fromfd(cls, fd: int, /) -> epoll:
            self = cls.__new__(cls)
            self._epoll = original.fromfd(fd)
            return self

        @property
        def closed(self) -> bool:
            """True if the epoll handler is closed."""
            closed: bool = self._epoll.closed
            return closed

        def close(self) -> None:
            self._epoll.close()

        def fileno(self) -> int:
            number: int = self._epoll.fileno()
            return number

        def register(
            self, fd: Any, eventmask: int = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT
        ) -> None:
            self._epoll.register(fd, eventmask)

        def modify(self, fd: Any, eventmask: int) -> None:
            self._epoll.modify(fd, eventmask)

        def unregister(self, fd: Any) -> None:
            self._epoll.unregister(fd)

        def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
            poll_now = self._epoll.poll
            if not _core.in_task():
                return poll_now(timeout, maxevents)  # type: ignore[no-any-return]
            ready: list[tuple[int, int]] = poll_now(0, maxevents)
            deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
            while not ready:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                _core.wait_descriptors([(self._epoll.fileno(), True, False)], left)
                ready = poll_now(0, maxevents)
            return ready

        def __enter__(self) -> epoll:
            self._epoll.__enter__()
            return self

        def __exit__(self, *details: Any) -> None:
            self._epoll.close()

    epoll.__module__ = "select"
    epoll.__qualname__ = "epoll"
    return epoll


poll.__module__ = "select"
poll.__qualname__ = "poll"


def patch() -> None:
    patcher.function(select, "select", select_)
    patcher.hybrid(select, "poll", poll)
    if hasattr(select, "epoll"):
        patcher.hybrid(select, "epoll", _make_epoll(originals.saved["select"]["epoll"]))
