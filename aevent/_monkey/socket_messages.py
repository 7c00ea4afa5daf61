"""`socket`: calls of a blocking stream that are done when all of the data has gone or come.

Callers of `sendmsg`, and of `recvfrom`, `recvmsg` and their kin with `MSG_WAITALL`, count on that.
The kernel sees to it where it may block; here each try may transfer a part.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

Method = Callable[..., Any]


def sendmsg(send: Method) -> Method:
    """`sendmsg` by `send`, which sends a part."""

    def sendmsg(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        if not args or self.gettimeout() is not None or self.type != socket.SOCK_STREAM:
            return send(self, *args, **kwargs)
        buffers, *others = args
        if not isinstance(buffers, (list, tuple)):
            try:
                buffers = iter(buffers)
            except TypeError:
                # The original says so in its own words.
                return send(self, *args, **kwargs)
            buffers = list(buffers)
        sent = send(self, buffers, *others, **kwargs)
        flags = others[1] if len(others) > 1 else 0
        if not flags & socket.MSG_DONTWAIT:
            # What comes beside the data has gone with the first of it.
            while rest := _after(buffers, sent):
                sent += send(self, rest, (), flags)
        return sent

    return _named(sendmsg, send)


def recvfrom(receive: Method) -> Method:
    """`recvfrom` by `receive`, which receives a part."""

    def recvfrom(self: socket.socket, *args: Any) -> Any:
        data, address = receive(self, *args)
        if _wants_all(self, args[1:]):
            size = args[0]
            more = data
            while more and len(data) < size:
                more, address = receive(self, size - len(data), args[1])
                data += more
        return data, address

    return _named(recvfrom, receive)


def recvfrom_into(receive: Method) -> Method:
    """`recvfrom_into` by `receive`, which receives a part."""

    def recvfrom_into(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        count, address = receive(self, *args, **kwargs)
        given = dict(zip(("buffer", "nbytes", "flags"), args, strict=False), **kwargs)
        buffer, nbytes, flags = given["buffer"], given.get("nbytes"), given.get("flags")
        if _wants_all(self, (flags,)):
            view = memoryview(buffer).cast("B")[: nbytes or None]
            more = count
            while more and count < len(view):
                more, address = receive(self, view[count:], 0, flags)
                count += more
        return count, address

    return _named(recvfrom_into, receive)


def recvmsg(receive: Method) -> Method:
    """`recvmsg` by `receive`, which receives a part."""

    def recvmsg(self: socket.socket, *args: Any) -> Any:
        data, *rest = receive(self, *args)
        if _wants_all(self, args[2:]):
            size, room, flags = args
            more = data
            # What comes beside the data ends it, as in the kernel.
            while more and not rest[0] and len(data) < size:
                more, *rest = receive(self, size - len(data), room, flags)
                data += more
        return data, *rest

    return _named(recvmsg, receive)


def recvmsg_into(receive: Method) -> Method:
    """`recvmsg_into` by `receive`, which receives a part."""

    def recvmsg_into(self: socket.socket, *args: Any) -> Any:
        if not _wants_all(self, args[2:]):
            return receive(self, *args)
        buffers, room, flags = args
        if not isinstance(buffers, (list, tuple)):
            try:
                buffers = iter(buffers)
            except TypeError:
                # The original says so in its own words.
                return receive(self, *args)
            buffers = list(buffers)
        count, *rest = receive(self, buffers, room, flags)
        more = count
        while more and not rest[0] and (left := _after(buffers, count)):
            more, *rest = receive(self, left, room, flags)
            count += more
        return count, *rest

    return _named(recvmsg_into, receive)


def _wants_all(sock: socket.socket, flags: Iterable[Any]) -> bool:
    """Whether `flags`, which may be missing, has it wait for all that was asked for."""
    relevant = socket.MSG_WAITALL | socket.MSG_PEEK | socket.MSG_DONTWAIT
    for given in flags:
        return (
            isinstance(given, int)
            and given & relevant == socket.MSG_WAITALL
            and sock.gettimeout() is None
            and sock.type == socket.SOCK_STREAM
        )
    return False


def _after(buffers: Iterable[Any], done: int) -> list[memoryview]:
    """What is left of the buffers when so many bytes of them have been sent or filled."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        size = view.nbytes
        if size > done:
            rest.append(view.cast("B")[done:] if done else view)
        done = max(done - size, 0)
    return rest


def _named(method: Method, original: Method) -> Method:
    method.__qualname__ = original.__qualname__
    return method
