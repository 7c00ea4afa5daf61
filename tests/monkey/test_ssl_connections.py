"""How a TLS connection comes about: handshakes, certificates, names, protocols and sessions."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

import pytest

from tests.monkey.threads import later, started
from tests.monkey.tls import (
    authority,
    certificate,
    client_context,
    heartbeat,
    is_blocking,
    raw_pair,
    server_context,
    tls_pair,
)


def test_unwrap_gives_back_a_plain_connection() -> None:
    left, right = tls_pair()
    plain: list[socket.socket] = []
    thread = started(lambda: plain.append(right.unwrap()))
    back = left.unwrap()
    thread.join()
    with back, plain[0]:
        later(plain[0].sendall, b"in the clear")
        assert back.recv(100) == b"in the clear"


def test_a_plain_connection_is_upgraded() -> None:
    client, server = raw_pair()
    client.sendall(b"STARTTLS")
    # The whole of what is there, after which the socket is known to be empty.
    assert server.recv(1000) == b"STARTTLS"
    later(server.sendall, b"OK")
    assert client.recv(1000) == b"OK"
    left, right = tls_pair(raw=(client, server))
    with left, right:
        right.sendall(b"secret")
        assert left.recv(100) == b"secret"


def test_connect_does_the_handshake() -> None:
    context = server_context()
    with socket.create_server(("127.0.0.1", 0)) as plain:
        listener = context.wrap_socket(plain, server_side=True)

        def serve() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"hello")

        thread = started(serve)
        with listener:
            for way in ("connect", "connect_ex", "later"):
                unconnected = socket.socket(socket.AF_INET)
                with client_context().wrap_socket(
                    unconnected,
                    server_hostname="localhost",
                    do_handshake_on_connect=way != "later",
                ) as connection:
                    if way == "connect_ex":
                        assert connection.connect_ex(listener.getsockname()) == 0
                    else:
                        connection.connect(listener.getsockname())
                    if way == "later":
                        assert connection.version() is None
                        connection.do_handshake()
                    assert connection.version() == "TLSv1.3"
                    assert connection.recv(10) == b"hello"
            thread.join()


def test_a_certificate_that_is_not_trusted_is_refused() -> None:
    left, right = raw_pair()
    errors: list[Exception] = []

    def serve() -> None:
        with pytest.raises(ssl.SSLError) as caught:
            server_context().wrap_socket(right, server_side=True)
        errors.append(caught.value)

    thread = started(serve)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        ssl.create_default_context().wrap_socket(left, server_hostname="localhost")
    thread.join()
    assert left.fileno() == right.fileno() == -1
    assert "UNKNOWN_CA" in str(errors[0]).upper()


def test_server_name_callbacks_may_wait() -> None:
    server = server_context("unused.example")
    other = server_context("localhost")
    seen: list[Any] = []

    def choose(sock: Any, name: str | None, _context: ssl.SSLContext) -> None:
        time.sleep(0.001)
        seen.append(name)
        sock.context = other

    server.sni_callback = choose
    with heartbeat() as beats:
        left, right = tls_pair(server=server)
        assert beats() > 1
    with left, right:
        assert seen == ["localhost"]
        left.sendall(b"data")
        assert right.recv(10) == b"data"
        assert is_blocking(left)
        assert is_blocking(right)


def test_protocols_are_negotiated() -> None:
    server, client = server_context(), client_context()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["http/1.1"])
    left, right = tls_pair(client, server)
    with left, right:
        assert left.selected_alpn_protocol() == right.selected_alpn_protocol() == "http/1.1"
        certificate = left.getpeercert()
        assert certificate is not None
        assert ("DNS", "localhost") in certificate["subjectAltName"]


def test_sessions_are_reused() -> None:
    server, client = server_context(), client_context()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    left, right = tls_pair(client, server)
    with left, right:
        assert not left.session_reused
        session = left.session
    left, right = tls_pair(client, server, session=session)
    with left, right:
        assert left.session_reused


def test_the_client_is_asked_for_a_certificate_after_the_handshake() -> None:
    server, client = server_context(), client_context()
    authority().configure_trust(server)
    certificate("me@localhost").configure_cert(client)
    server.verify_mode = ssl.CERT_OPTIONAL
    server.post_handshake_auth = client.post_handshake_auth = True
    left, right = tls_pair(client, server)
    with left, right:

        def ask() -> None:
            left.sendall(b"who am I?")
            assert left.recv(100) == b"wait"
            left.sendall(b"here")
            assert left.recv(100) == b"you are known"

        thread = started(ask)
        assert right.recv(100) == b"who am I?"
        right.verify_client_post_handshake()
        right.sendall(b"wait")
        assert right.recv(100) == b"here"
        assert right.getpeercert()
        right.sendall(b"you are known")
        thread.join()
