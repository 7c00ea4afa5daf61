"""`select`: `select`, `poll` and `epoll`.

Each asks the original first, without waiting; if nothing is ready, it parks until one of the
descriptors may be, and asks again.
"""

from __future__ import annotations

import errno
import math
import operator
import os
import select
from collections.abc import Callable, Iterable
from typing import Any

from .. import _core
from . import originals, patcher

_select = select.select
_poll = select.poll


class Patience:
    """How long a call that asks the kernel again and again may go on waiting."""

    __slots__ = ("_deadline", "_idle")

    def __init__(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else _core.current_time() + seconds
        self._idle = 0

    def is_over(self) -> bool:
        return self._deadline is not None and _core.current_time() >= self._deadline

    def wait(self, descriptors: list[tuple[int, bool, bool]], urgent: Iterable[int] = ()) -> None:
        """Parks until one of the descriptors may be ready, or the time is over."""
        began = originals.monotonic()
        left = None
        if self._deadline is not None:
            left = max(self._deadline - _core.current_time(), 0)
        _core.wait_descriptors(descriptors, left, [*urgent])
        # What cannot be waited for (a regular file that select() is to find exceptional) and what
        # is ready for something else than was asked for would have us spin.
        self._idle = self._idle + 1 if originals.monotonic() - began < 0.0001 else 0
        if self._idle > 3:
            pause = 0.001 * 2 ** min(self._idle - 3, 5)
            _core.sleep(pause if left is None else min(pause, left))


def _number(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()


def _is_plain(timeout: Any) -> bool:
    """Whether the original would take the timeout without a complaint, for sure."""
    return type(timeout) in (int, float) and 0 <= timeout <= 1_000_000_000


def _checked(timeout: Any, call: Callable[[int], object]) -> Any:
    """The timeout as a number, if `call`, the original, does not complain about it.

    It is called with a descriptor that does not let it wait.
    """
    reader, writer = os.pipe()
    os.close(writer)
    try:
        call(reader)
    finally:
        os.close(reader)
    return timeout if isinstance(timeout, float) else operator.index(timeout)


def _sequence(files: Iterable[Any]) -> Any:
    """What the original reads, and reads again: `fileno()` may change a list meanwhile."""
    return files if isinstance(files, (list, tuple)) or not hasattr(files, "__iter__") else [*files]


def _files(pairs: list[tuple[int, Any]], numbers: Iterable[int]) -> list[Any]:
    return [file for number, file in pairs if number in numbers]


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def select_(
    rlist: Iterable[Any],
    wlist: Iterable[Any],
    xlist: Iterable[Any],
    timeout: float | None = None,
    /,
) -> tuple[list[Any], list[Any], list[Any]]:
    if timeout is not None and not _is_plain(timeout):
        timeout = _checked(timeout, lambda fd: _select([fd], [], [], timeout))
    rlist, wlist, xlist = _sequence(rlist), _sequence(wlist), _sequence(xlist)
    ready = _select(rlist, wlist, xlist, 0)
    if timeout == 0:
        _core.checkpoint()
        return ready
    if any(ready):
        return ready
    # A socket that is closed meanwhile has no number any more.
    rpairs, wpairs, xpairs = (
        [(_number(file), file) for file in it] for it in (rlist, wlist, xlist)
    )
    reading, writing, urgent = ({fd for fd, _ in pairs} for pairs in (rpairs, wpairs, xpairs))
    waits = [(fd, fd in reading, fd in writing) for fd in reading | writing | urgent]
    patience = Patience(timeout)
    found: tuple[Iterable[int], Iterable[int], Iterable[int]] = (), (), ()
    while not any(found) and not patience.is_over():
        patience.wait(waits, urgent)
        try:
            found = _select(reading, writing, urgent, 0)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            closed = {fd for fd, _, _ in waits if _is_closed(fd)}
            found = reading & closed, writing & closed, urgent & closed
    r, w, x = found
    return _files(rpairs, r), _files(wpairs, w), _files(xpairs, x)


select_.__name__ = select_.__qualname__ = "select"


class _Poll:
    """`select.poll()` objects: the original's, plus the list of what is registered."""

    __slots__ = ("__weakref__", "_poll", "_registered", "_waiting")

    _poll: Any
    _registered: dict[int, int]
    _waiting: bool

    def __new__(cls) -> _Poll:
        raise TypeError("cannot create 'select.poll' instances")

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
            return self._poll.poll(timeout)  # type: ignore[no-any-return]
        if self._waiting:
            raise RuntimeError("concurrent poll() invocation")
        if timeout is None:
            seconds = None
        else:
            if not _is_plain(timeout) or timeout > 2**31 - 1:
                timeout = self._checked(timeout)
            # Rounded up, as the original does.
            seconds = None if timeout < 0 else math.ceil(timeout) / 1000
        ready: list[tuple[int, int]] = self._poll.poll(0)
        if ready or seconds == 0:
            return ready
        patience = Patience(seconds)
        self._waiting = True
        try:
            while not ready and not patience.is_over():
                registered = self._registered.items()
                patience.wait(
                    [
                        (fd, bool(mask & select.POLLIN), bool(mask & select.POLLOUT))
                        for fd, mask in registered
                    ],
                    [fd for fd, mask in registered if mask & select.POLLPRI],
                )
                ready = self._poll.poll(0)
        finally:
            self._waiting = False
        return ready

    @staticmethod
    def _checked(timeout: Any) -> Any:
        def call(fd: int) -> None:
            original = _poll()
            original.register(fd)
            original.poll(timeout)

        return _checked(timeout, call)


_Poll.__module__, _Poll.__name__, _Poll.__qualname__ = "select", "poll", "poll"


def poll() -> _Poll:
    self = object.__new__(_Poll)
    self._poll = _poll()
    self._registered = {}
    self._waiting = False
    return self


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
            if timeout is not None and not _is_plain(timeout):
                timeout = self._checked(timeout)
            ready: list[tuple[int, int]] = poll_now(0, maxevents)
            if ready or timeout == 0:
                return ready
            patience = Patience(None if timeout is None or timeout < 0 else timeout)
            while not ready and not patience.is_over():
                patience.wait([(self._epoll.fileno(), True, False)])
                ready = poll_now(0, maxevents)
            return ready

        @staticmethod
        def _checked(timeout: Any) -> Any:
            def call(fd: int) -> None:
                with original() as waiting:
                    waiting.register(fd)
                    waiting.poll(timeout)

            return _checked(timeout, call)

        def __enter__(self) -> epoll:
            self._epoll.__enter__()
            return self

        def __exit__(self, *details: Any) -> None:
            self._epoll.close()

    epoll.__module__ = "select"
    epoll.__qualname__ = "epoll"
    return epoll


def patch() -> None:
    patcher.function(select, "select", select_)
    patcher.always(select, "poll", poll)
    if hasattr(select, "epoll"):
        patcher.hybrid(select, "epoll", _make_epoll(originals.saved["select"]["epoll"]))
