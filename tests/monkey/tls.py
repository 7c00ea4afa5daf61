"""Certificates and pairs of TLS sockets for tests."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trustme

from tests.monkey.threads import started

#: More than fits into the buffers of a connection.
BIG = bytes(range(256)) * (1 << 14)


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@functools.cache
def certificate(name: str) -> trustme.LeafCert:
    return authority().issue_cert(name, key_type=trustme.KeyType.ECDSA)


def server_context(name: str = "localhost") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate(name).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    # What create_default_context() makes, without the hundreds of authorities of the system.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


@contextmanager
def heartbeat() -> Iterator[Callable[[], int]]:
    """A thread that goes on meanwhile; the function tells how often it had its turn."""
    beats = 0
    stopped = False

    def beat() -> None:
        nonlocal beats
        while not stopped:
            beats += 1
            time.sleep(0.0005)

    thread = started(beat)
    # Its timer runs before those of the body: who waits for one of these has let it go on.
    while not beats:
        time.sleep(0)
    try:
        yield lambda: beats
    finally:
        stopped = True
        thread.join()


def raw_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection, whose buffers are small."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        left = socket.socket()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        left.connect(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


def tls_pair(
    client: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
    raw: tuple[socket.socket, socket.socket] | None = None,
    **options: Any,
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of a TLS connection: the client's and the server's."""
    left, right = raw or raw_pair()
    ends: list[ssl.SSLSocket] = []
    context = server or server_context()
    thread = started(lambda: ends.append(context.wrap_socket(right, server_side=True)))
    client = client or client_context()
    end = client.wrap_socket(left, server_hostname="localhost", **options)
    thread.join()
    return end, ends[0]


def is_blocking(sock: socket.socket) -> bool:
    return not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
