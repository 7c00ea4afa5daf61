"""`ssl`: `SSLSocket`s whose calls park.

`SSLSocket` and `SSLContext` stay the classes they are, so it does not matter who has imported them
before. The methods of `SSLSocket` that use the connection decide; whatever else waits in `ssl` does
it through them or through `socket`. `SSLObject` never waits.
"""

from __future__ import annotations

import socket
import ssl
import sys
from typing import Any

from .. import _core
from . import patcher

_ssl_read = _core.ssl_read
_ssl_write = _core.ssl_write
_ssl_call = _core.ssl_call


def read(self: Any, len: int = 1024, buffer: Any = None) -> Any:
    self._checkClosed()
    if self._sslobj is None:
        raise ValueError("Read on closed or unwrapped SSL socket.")
    try:
        if buffer is not None:
            return _ssl_read(self, self._sslobj, len, buffer)
        return _ssl_read(self, self._sslobj, len)
    except ssl.SSLError as error:
        if error.args[0] == ssl.SSL_ERROR_EOF and self.suppress_ragged_eofs:
            return b"" if buffer is None else 0
        raise


def write(self: Any, data: Any) -> int:
    self._checkClosed()
    if self._sslobj is None:
        raise ValueError("Write on closed or unwrapped SSL socket.")
    return _ssl_write(self, self._sslobj, data)


def send(self: Any, data: Any, flags: int = 0) -> int:
    if self._sslobj is None or flags != 0:
        # In the clear, or an error.
        count: int = _send(self, data, flags)
        return count
    self._checkClosed()
    return _ssl_write(self, self._sslobj, data)


def sendall(self: Any, data: Any, flags: int = 0) -> None:
    if type(data) is not bytes or not data or flags != 0 or self._sslobj is None:
        _sendall(self, data, flags)
        return
    self._checkClosed()
    # OpenSSL takes all of it at once, unless something else is in place of `send`.
    count = self.send(data)
    while count < len(data):
        count += self.send(data[count:])


def unwrap(self: Any) -> Any:
    if not self._sslobj:
        raise ValueError("No SSL wrapper around " + str(self))
    sock = _ssl_call(self, self._sslobj.shutdown)
    self._sslobj = None
    return sock


def do_handshake(self: Any, block: bool = False) -> None:
    self._check_connected()
    timeout = self.gettimeout()
    abandoned = False
    try:
        if timeout == 0.0 and block:
            self.settimeout(None)
        _ssl_call(self, self._sslobj.do_handshake)
    except BaseException as error:
        # Before Python 3.13, `wrap_socket` closes the socket, which nobody else knows of yet, only
        # after errors; and a cancellation or an interrupt is none.
        abandoned = not isinstance(error, Exception) and sys._getframe(1).f_code is _create_code
        raise
    finally:
        if abandoned:
            self.close()
        else:
            self.settimeout(timeout)


_send = ssl.SSLSocket.send
_sendall = ssl.SSLSocket.sendall
_create_code = ssl.SSLSocket._create.__func__.__code__  # type: ignore[attr-defined]


def patch() -> None:
    plain = getattr(socket.socket, "_aevent_orig", socket.socket)
    original = patcher.in_place(ssl, "SSLSocket", plain)
    replacements = (
        ("read", read),
        ("write", write),
        ("send", send),
        ("sendall", sendall),
        ("unwrap", unwrap),
        ("do_handshake", do_handshake),
    )
    patcher.keep_in(original, *[name for name, _ in replacements])
    for name, new in replacements:
        patcher.method(ssl.SSLSocket, name, new)
