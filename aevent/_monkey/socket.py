"""`socket`: sockets whose calls park, and name look-ups in other threads.

`socket.socket` stays the class it is; its methods decide.
"""

from __future__ import annotations

import _socket
import errno
import functools
import io
import os
import socket
from collections.abc import Callable
from typing import Any

from .. import _core
from .._imports import when_imported
from . import patcher
from . import socket_messages as whole

_orig: dict[str, Any] = {}
_getaddrinfo = _socket.getaddrinfo
_os_sendfile = os.sendfile


def _through(name: str, write: bool, flags: int) -> Callable[..., Any]:
    """The original method, tried without blocking until it need not wait.

    `flags` is the position of that argument.
    """
    original = getattr(_socket.socket, name)
    call = _core.socket_call

    def method(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        if (len(args) > flags or "flags" in kwargs) and _is_not_to_wait(
            self, args[flags] if len(args) > flags else kwargs["flags"]
        ):
            return original(self, *args, **kwargs)
        return call(original, write, self, args, kwargs or None)

    method.__name__ = name
    method.__qualname__ = f"socket.{name}"
    return method


def _is_not_to_wait(sock: socket.socket, flags: Any) -> bool:
    """Whether the flags keep a blocking socket from waiting. With a timeout they do not."""
    return (
        isinstance(flags, int) and bool(flags & socket.MSG_DONTWAIT) and sock.gettimeout() is None
    )


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
            name = host if isinstance(host, str) else bytes(host)
            found = _core.offload(_getaddrinfo, name, None, sock.family, 0, sock.proto)
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
    if len(args) == 3 and _is_not_to_wait(self, args[1]):
        return _socket.socket.sendto(self, *args)
    count: int = _core.socket_call(_socket.socket.sendto, True, self, args)
    return count


def sendfile(self: socket.socket, file: Any, offset: int = 0, count: int | None = None) -> int:
    try:
        return _sendfile_use_sendfile(self, file, offset, count)
    except socket._GiveupOnSendfile:  # type: ignore[attr-defined]
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]


def _sendfile_use_sendfile(
    self: socket.socket, file: Any, offset: int = 0, count: int | None = None
) -> int:
    give_up = socket._GiveupOnSendfile  # type: ignore[attr-defined]
    self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
    try:
        number = file.fileno()
        size = os.fstat(number).st_size
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise give_up(error) from None
    if not size:
        return 0
    if self.gettimeout() == 0:
        raise ValueError("non-blocking sockets are not supported")

    def send_some(sock: socket.socket, position: int, block: int) -> int:
        return _os_sendfile(sock.fileno(), number, position, block)

    total = 0
    try:
        while not count or total < count:
            block = min(count - total if count else size, 2**30)
            try:
                sent: int = _core.socket_call(send_some, True, self, (offset, block))
            except TimeoutError:
                raise
            except OSError as error:
                if total == 0:
                    # Perhaps not a file that sendfile() takes.
                    raise give_up(error) from None
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


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> Any:
    original = _orig["getaddrinfo"]
    if (host is None or (isinstance(host, str) and _is_numeric(host))) and (
        port is None or isinstance(port, int)
    ):
        return original(host, port, family, type, proto, flags)
    return _core.offload(original, host, port, family, type, proto, flags)


def _patch_socketserver(module: Any) -> None:
    writer = getattr(module, "_SocketWriter", None)
    if writer is not None:
        patcher.method(writer, "write", _core.socket_writer_method(writer))


def patch() -> None:
    kind = socket.socket
    replacements = (
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
        ("_sendfile_use_sendfile", _sendfile_use_sendfile),
        ("recvfrom", whole.recvfrom(_through("recvfrom", write=False, flags=1))),
        (
            "recvfrom_into",
            whole.recvfrom_into(_through("recvfrom_into", write=False, flags=2)),
        ),
        ("recvmsg", whole.recvmsg(_through("recvmsg", write=False, flags=2))),
        (
            "recvmsg_into",
            whole.recvmsg_into(_through("recvmsg_into", write=False, flags=2)),
        ),
        ("sendmsg", whole.sendmsg(_through("sendmsg", write=True, flags=2))),
    )
    original = patcher.in_place(socket, "socket")
    patcher.keep_in(original, *[name for name, _ in replacements])
    for name in ("__init__", "close", "detach", "bind"):
        _orig[name] = getattr(kind, name)
    _orig["getaddrinfo"] = socket.getaddrinfo
    patcher.always(kind, "__init__", _init)
    patcher.always(kind, "close", close)
    patcher.always(kind, "detach", detach)
    for name, new in replacements:
        patcher.method(kind, name, new)
    if hasattr(kind, "sendmsg_afalg"):
        patcher.keep_in(original, "sendmsg_afalg")
        patcher.method(kind, "sendmsg_afalg", _through("sendmsg_afalg", write=True, flags=4))
    for name, new in _core.socket_io_methods(socket.SocketIO, kind).items():
        patcher.method(socket.SocketIO, name, new)
    when_imported("socketserver", _patch_socketserver)
    patcher.function(socket, "getaddrinfo", getaddrinfo)
    for name in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        patcher.function(socket, name, functools.partial(_core.offload, getattr(socket, name)))
