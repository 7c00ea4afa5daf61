"""`socket`: sockets whose calls park, and name look-ups in other threads.

`socket.socket` stays the class it is; its methods decide.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from .. import _core
from . import patcher

_orig: dict[str, Any] = {}
_getaddrinfo = _socket.getaddrinfo


def _through(name: str, write: bool) -> Callable[..., Any]:
    """The original method, tried without blocking until it need not wait."""
    original = getattr(_socket.socket, name)
    call = _core.socket_call

    def method(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        return call(original, write, self, args, kwargs or None)

    method.__name__ = name
    method.__qualname__ = f"socket.{name}"
    return method


def _is_numeric(host: str) -> bool:
    if not host or host == "<broadcast>":
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _resolved(sock: socket.socket, address: Any) -> Any:
    """`address` with a name in it looked up, which the original would do in C, blocking."""
    if (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and isinstance(address, tuple)
        and len(address) >= 2
        and isinstance(address[0], (str, bytes, bytearray))
    ):
        host = address[0]
        text = host if isinstance(host, str) else bytes(host).decode("ascii", "replace")
        if not _is_numeric(text):
            found = _core.offload(_getaddrinfo, host, None, sock.family, 0, sock.proto)
            return (found[0][4][0], *address[1:])
    return address


def accept(self: socket.socket) -> tuple[socket.socket, Any]:
    fd, address = _core.socket_call(_socket.socket._accept, False, self, ())  # type: ignore[attr-defined]
    sock = socket.socket(self.family, self.type, self.proto, fileno=fd)
    if socket.getdefaulttimeout() is None and self.gettimeout():
        sock.setblocking(True)
    return sock, address


def _connect(self: socket.socket, address: Any) -> int:
    address = _resolved(self, address)
    original = _socket.socket.connect
    pause = 0.001
    while True:
        error = _core.socket_connect(original, self, address)
        if error != errno.EAGAIN:
            return error
        # A UNIX socket's listener has a full backlog, and nothing tells when it has room again.
        _core.sleep(pause)
        pause = min(pause * 2, 0.05)


def connect(self: socket.socket, address: Any, /) -> None:
    error = _connect(self, address)
    if error:
        raise OSError(error, os.strerror(error))


def connect_ex(self: socket.socket, address: Any, /) -> int:
    try:
        return _connect(self, address)
    except socket.gaierror:
        raise
    except TimeoutError:
        return errno.EAGAIN
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno


def bind(self: socket.socket, address: Any, /) -> None:
    _orig["bind"](self, _resolved(self, address))


def sendto(self: socket.socket, *args: Any) -> int:
    if len(args) >= 2:
        args = (*args[:-1], _resolved(self, args[-1]))
    count: int = _core.socket_call(_socket.socket.sendto, True, self, args)
    return count


def sendfile(self: socket.socket, file: Any, offset: int = 0, count: int | None = None) -> int:
    self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
    if self.gettimeout() == 0:
        raise ValueError("non-blocking sockets are not supported")
    try:
        number = file.fileno()
        size = os.fstat(number).st_size
        if not size or not hasattr(os, "sendfile"):
            raise OSError
    except (AttributeError, OSError):
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]

    def send_some(sock: socket.socket, position: int, block: int) -> int:
        return os.sendfile(sock.fileno(), number, position, block)

    total = 0
    try:
        while count is None or total < count:
            block = min(count - total if count is not None else size, 2**30)
            try:
                sent = _core.socket_call(send_some, True, self, (offset, block))
            except OSError as error:
                if total == 0 and error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    # Not a file that sendfile() takes.
                    return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]
                raise
            if sent == 0:
                break
            offset += sent
            total += sent
        return total
    finally:
        if total > 0 and hasattr(file, "seek"):
            file.seek(offset)


def _init(self: socket.socket, *args: Any, **kwargs: Any) -> None:
    _orig["__init__"](self, *args, **kwargs)
    _core.socket_opened(self)


def close(self: socket.socket) -> None:
    _core.socket_closing(self)
    _orig["close"](self)


def detach(self: socket.socket) -> int:
    _core.socket_closing(self)
    number: int = _orig["detach"](self)
    return number


def _offloaded(function: Callable[..., Any]) -> Callable[..., Any]:
    offload = _core.offload

    def look_up(*args: Any, **kwargs: Any) -> Any:
        return offload(function, *args, **kwargs)

    look_up.__name__ = look_up.__qualname__ = function.__name__
    return look_up


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> Any:
    original = _orig["getaddrinfo"]
    if (host is None or (isinstance(host, str) and _is_numeric(host))) and (
        port is None or isinstance(port, int)
    ):
        return original(host, port, family, type, proto, flags)
    return _core.offload(original, host, port, family, type, proto, flags)


def patch() -> None:
    kind = socket.socket
    for name in ("__init__", "close", "detach", "bind"):
        _orig[name] = getattr(kind, name)
    _orig["getaddrinfo"] = socket.getaddrinfo
    patcher.always(kind, "__init__", _init)
    patcher.always(kind, "close", close)
    patcher.always(kind, "detach", detach)
    for name, new in (
        ("recv", _core.socket_recv),
        ("recv_into", _core.socket_recv_into),
        ("send", _core.socket_send),
        ("sendall", _core.socket_sendall),
        ("accept", accept),
        ("connect", connect),
        ("connect_ex", connect_ex),
        ("bind", bind),
        ("sendto", sendto),
        ("sendfile", sendfile),
        ("recvfrom", _through("recvfrom", write=False)),
        ("recvfrom_into", _through("recvfrom_into", write=False)),
        ("recvmsg", _through("recvmsg", write=False)),
        ("recvmsg_into", _through("recvmsg_into", write=False)),
        ("sendmsg", _through("sendmsg", write=True)),
    ):
        patcher.method(kind, name, new)
    if hasattr(kind, "sendmsg_afalg"):
        patcher.method(kind, "sendmsg_afalg", _through("sendmsg_afalg", write=True))
    patcher.function(socket, "getaddrinfo", getaddrinfo)
    for name in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        patcher.function(socket, name, _offloaded(getattr(socket, name)))
