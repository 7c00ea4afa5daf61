"""`ssl`."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import http.server
import os
import select
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

import aevent
from aevent import _core

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


def started(fn: Callable[..., object], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    return thread


def later(fn: Callable[..., object], *args: Any) -> None:
    threading.Timer(0.002, fn, args).start()


def let_others_wait() -> None:
    """Lets the others go on until they wait for something."""
    for _ in range(5):
        time.sleep(0)


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


def test_a_server_and_its_clients_talk_while_others_run() -> None:
    context = server_context()
    with socket.create_server(("127.0.0.1", 0)) as plain:
        listener = context.wrap_socket(plain, server_side=True)
        answers: list[bytes] = []

        def serve() -> None:
            for _ in range(5):
                connection, _address = listener.accept()
                started(echo, connection)

        def echo(connection: ssl.SSLSocket) -> None:
            with connection:
                while data := connection.recv(1000):
                    connection.sendall(data.upper())

        def ask(number: int) -> None:
            address = listener.getsockname()
            with (
                socket.create_connection(address) as raw,
                client_context().wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                connection.sendall(b"hello %d" % number)
                answers.append(connection.recv(1000))

        with heartbeat() as beats, listener:
            server = started(serve)
            clients = [started(ask, number) for number in range(5)]
            for thread in [*clients, server]:
                thread.join()
            assert beats() > 1
        assert sorted(answers) == [b"HELLO %d" % number for number in range(5)]


def test_every_way_to_read_waits() -> None:
    left, right = tls_pair()
    with left, right:
        buffer = bytearray(4)
        read_into: Any = ssl.SSLSocket.read
        ways: tuple[Callable[[], bytes], ...] = (
            lambda: left.recv(100),
            lambda: left.read(100),
            lambda: left.read(),
            lambda: bytes(buffer[: left.recv_into(buffer)]),
            lambda: bytes(buffer[: read_into(left, 4, buffer)]),
        )
        for way in ways:
            buffer[:] = bytes(4)
            later(right.sendall, b"data")
            assert way() == b"data"
            assert is_blocking(left)


def test_a_record_is_read_in_parts_without_waiting_for_another() -> None:
    left, right = tls_pair()
    with left, right:
        right.sendall(b"abcdef")
        right.sendall(b"ghi")
        assert [left.recv(1) for _ in range(9)] == [bytes([byte]) for byte in b"abcdefghi"]
        later(right.sendall, b"j")
        assert left.recv(10) == b"j"


def test_the_end_of_the_stream_is_read_again_and_again() -> None:
    left, right = tls_pair()
    with left:
        right.sendall(b"last")
        assert left.recv(10) == b"last"
        # Says that it is done, and goes on listening: the socket itself has no end yet.
        thread = started(right.unwrap)
        assert [left.recv(10) for _ in range(3)] == [b"", b"", b""]
        left.unwrap().close()
        thread.join()
        right.close()


def test_both_directions_at_once() -> None:
    left, right = tls_pair()
    received: dict[str, bytearray] = {"left": bytearray(), "right": bytearray()}

    def drain(name: str, end: ssl.SSLSocket) -> None:
        while len(received[name]) < len(BIG):
            received[name] += end.recv(100_000)

    with left, right, heartbeat() as beats:
        threads = [
            started(drain, "left", left),
            started(drain, "right", right),
            started(left.sendall, BIG),
            started(right.sendall, BIG),
        ]
        for thread in threads:
            thread.join()
        assert beats() > 1
        assert received["left"] == received["right"] == BIG
        assert is_blocking(left)
        assert is_blocking(right)


def test_a_parked_reader_does_not_keep_a_writer_waiting() -> None:
    left, right = tls_pair()
    with left, right:
        answers: list[bytes] = []
        reader = started(lambda: answers.append(left.recv(10)))
        let_others_wait()
        for _ in range(3):
            left.sendall(b"question")
            assert right.recv(10) == b"question"
        right.sendall(b"answer")
        reader.join()
        assert answers == [b"answer"]


def test_several_readers_each_get_something() -> None:
    left, right = tls_pair()
    with left, right:
        answers: list[bytes] = []
        readers = [started(lambda: answers.append(left.recv(1))) for _ in range(5)]
        let_others_wait()
        right.sendall(b"ab")
        right.sendall(b"cde")
        for reader in readers:
            reader.join()
        assert sorted(answers) == [b"a", b"b", b"c", b"d", b"e"]


def test_writers_that_have_to_wait_take_turns() -> None:
    left, right = tls_pair()
    with left, right:
        size = 1 << 18
        writers = [started(left.sendall, bytes([65 + number]) * size) for number in range(4)]
        received = bytearray()
        while len(received) < 4 * size:
            received += right.recv(100_000)
        for writer in writers:
            writer.join()
        parts = [received[start : start + size] for start in range(0, 4 * size, size)]
        assert sorted(bytes(part) for part in parts) == [
            bytes([65 + number]) * size for number in range(4)
        ]


def test_a_writer_gives_up_waiting_for_its_turn() -> None:
    left, right = tls_pair()
    with left, right:
        received = bytearray()
        first = started(left.sendall, BIG)
        let_others_wait()
        with aevent.move_on_after(0.005) as scope:
            left.sendall(b"never sent")
        assert scope.cancelled_caught
        left.settimeout(0.005)
        with pytest.raises(TimeoutError, match=r"^The write operation timed out$"):
            left.sendall(b"never sent")
        left.settimeout(None)
        while len(received) < len(BIG):
            received += right.recv(100_000)
        first.join()
        left.sendall(b"last")
        assert received == BIG
        assert right.recv(10) == b"last"


def test_timeouts_have_the_original_words() -> None:
    left, right = tls_pair()
    with left, right:
        left.settimeout(0.005)
        for read in (lambda: left.recv(1), lambda: left.recv_into(bytearray(1)), left.read):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
                read()
            assert time.monotonic() - began >= 0.005
        assert left.gettimeout() == 0.005
        with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
            left.unwrap()
    left, right = tls_pair()
    with left, right:
        left.settimeout(0.005)
        with pytest.raises(TimeoutError, match=r"^The write operation timed out$"):
            left.sendall(BIG)
    raw, other = raw_pair()
    with other:
        raw.settimeout(0.005)
        with pytest.raises(TimeoutError, match=r"^_ssl\.c:\d+: The handshake operation timed out$"):
            client_context().wrap_socket(raw, server_hostname="localhost")
        assert raw.fileno() == -1


def test_data_in_time_is_no_timeout() -> None:
    left, right = tls_pair()
    with left, right:
        left.settimeout(5)
        later(right.sendall, b"data")
        assert left.recv(10) == b"data"
        assert left.gettimeout() == 5
        assert left.timeout == 5


def test_non_blocking_sockets_do_not_wait() -> None:
    left, right = tls_pair()
    with left, right:
        left.setblocking(False)
        assert left.gettimeout() == 0
        with pytest.raises(ssl.SSLWantReadError):
            left.recv(10)
        with pytest.raises(ssl.SSLWantWriteError):
            left.send(BIG)
        assert not is_blocking(left)
    left, right = tls_pair()
    with left, right:
        left.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            left.recv(10)
        later(right.sendall, b"data")
        assert select.select([left], [], []) == ([left], [], [])
        assert left.recv(10) == b"data"
        with pytest.raises(ssl.SSLWantReadError):
            left.unwrap()


def test_a_non_blocking_handshake_is_driven_by_a_selector() -> None:
    raw, other = raw_pair()
    context = server_context()
    ends: list[ssl.SSLSocket] = []
    thread = started(lambda: ends.append(context.wrap_socket(other, server_side=True)))
    raw.setblocking(False)
    with pytest.raises(ValueError, match="do_handshake_on_connect should not be specified"):
        client_context().wrap_socket(raw.dup(), server_hostname="localhost")
    end = client_context().wrap_socket(
        raw, server_hostname="localhost", do_handshake_on_connect=False
    )
    with end, selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        while True:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                selector.modify(end, selectors.EVENT_READ)
            except ssl.SSLWantWriteError:
                selector.modify(end, selectors.EVENT_WRITE)
            else:
                break
            selector.select()
        thread.join()
        assert end.version() == "TLSv1.3"
        ends[0].close()


def test_select_sees_a_second_record() -> None:
    left, right = tls_pair()
    with left, right:
        right.sendall(b"one")
        right.sendall(b"two")
        assert left.recv(100) == b"one"
        assert left.pending() == 0
        assert select.select([left], [], [], 5)[0] == [left]
        assert left.recv(100) == b"two"


def test_a_blocking_socket_stays_one_while_others_wait_for_it() -> None:
    left, right = tls_pair()
    with left, right:
        reader = started(left.recv, 10)
        writer = started(left.sendall, BIG)
        let_others_wait()
        for end in (left, right):
            assert is_blocking(end)
            assert end.gettimeout() is None
            assert end.getblocking()
        count = 0
        while count < len(BIG):
            count += len(right.recv(100_000))
        right.sendall(b"data")
        reader.join()
        writer.join()


def cancelled(call: Callable[[], object]) -> None:
    """Calls it and has it cancelled once it waits."""
    scope = aevent.CancelScope()
    with scope:
        later(scope.cancel)
        call()
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught


def test_cancellation_of_each_call() -> None:
    raw, other = raw_pair()
    with other:
        cancelled(lambda: client_context().wrap_socket(raw, server_hostname="localhost"))
        # Nobody else could close it.
        assert other.recv(1 << 16) != b""
        assert other.recv(1 << 16) == b""
    left, right = tls_pair()
    with left, right:
        cancelled(lambda: left.recv(10))
        cancelled(lambda: left.recv_into(bytearray(10)))
        right.sendall(b"data")
        assert left.recv(10) == b"data"
        cancelled(left.unwrap)
    left, right = tls_pair()
    with left, right:
        cancelled(lambda: left.sendall(BIG))
    context = server_context()
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        context.wrap_socket(plain, server_side=True) as listener,
    ):
        cancelled(listener.accept)


def test_closing_wakes_who_waits() -> None:
    for call in ("recv", "sendall"):
        left, right = tls_pair()
        with right:
            errors: list[OSError] = []

            def wait(end: ssl.SSLSocket, call: str, errors: list[OSError]) -> None:
                with pytest.raises(OSError) as caught:
                    getattr(end, call)(10 if call == "recv" else BIG)
                errors.append(caught.value)

            thread = started(wait, left, call, errors)
            let_others_wait()
            left.close()
            thread.join()
            assert errors[0].errno == errno.EBADF


def test_shutting_down_wakes_who_waits() -> None:
    left, right = tls_pair()
    with left, right:
        answers: list[bytes] = []
        thread = started(lambda: answers.append(left.recv(10)))
        let_others_wait()
        left.shutdown(socket.SHUT_RDWR)
        thread.join()
        assert answers == [b""]


def test_use_after_close_and_unwrap_is_refused_in_the_original_words() -> None:
    left, right = tls_pair()
    with right:
        left.close()
        with pytest.raises(ValueError, match="Read on closed or unwrapped SSL socket"):
            left.read()
        with pytest.raises(ValueError, match="Write on closed or unwrapped SSL socket"):
            left.write(b"data")
        with pytest.raises(ValueError, match="No SSL wrapper around"):
            left.unwrap()
        with pytest.raises(OSError, match="Bad file descriptor"):
            left.recv(1)
    left, right = tls_pair()
    with left, right:
        for call in (
            lambda: left.recv(1, socket.MSG_PEEK),
            lambda: left.send(b"data", socket.MSG_OOB),
            lambda: left.sendall(b"data", socket.MSG_OOB),
        ):
            with pytest.raises(ValueError, match="non-zero flags not allowed"):
                call()


def test_ragged_ends_are_suppressed_where_asked_for() -> None:
    for suppress in (True, False):
        left, right = tls_pair(suppress_ragged_eofs=suppress)
        with left:
            later(right.close)
            if suppress:
                assert left.recv(10) == b""
                assert left.recv_into(bytearray(10)) == 0
            else:
                with pytest.raises(ssl.SSLEOFError):
                    left.recv(10)


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


def test_files_over_tls() -> None:
    left, right = tls_pair()
    with left, right, left.makefile("rwb") as mine, right.makefile("rwb") as theirs:

        def serve() -> None:
            for line in theirs:
                theirs.write(line.upper())
                theirs.flush()

        thread = started(serve)
        for _ in range(3):
            mine.write(b"a line\n")
            mine.flush()
            assert mine.readline() == b"A LINE\n"
        left.shutdown(socket.SHUT_WR)
        thread.join()
    left, right = tls_pair()
    with left, right, tempfile.TemporaryFile() as file:
        file.write(BIG[: 1 << 18])
        file.flush()
        file.seek(0)
        sender = started(left.sendfile, file)
        received = bytearray()
        while len(received) < 1 << 18:
            received += right.recv(100_000)
        sender.join()
        assert received == BIG[: 1 << 18]


def test_a_servers_certificate_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        listener = server_context().wrap_socket(plain, server_side=True)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.close()

        with listener:
            thread = started(serve)
            found = ssl.get_server_certificate(listener.getsockname())
            thread.join()
        assert found.startswith("-----BEGIN CERTIFICATE-----")


def test_objects_over_memory_never_wait() -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context().wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client.do_handshake()
    server.do_handshake()
    client.write(b"data")
    assert server.read() == b"data"


def test_an_event_loop_in_a_thread_speaks_tls() -> None:
    async def main() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        async with server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context(), server_hostname="localhost"
            )
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    answers: list[bytes] = []
    thread = started(lambda: answers.append(asyncio.run(main())))
    thread.join()
    assert answers == [b"HELLO\n"]


async def test_an_async_task_makes_synchronous_tls_calls() -> None:
    await aevent.per_task()
    with heartbeat() as beats:
        left, right = tls_pair()
        with left, right:
            later(right.sendall, b"data")
            assert left.recv(10) == b"data"
            left.settimeout(0.002)
            with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
                left.recv(10)
            with aevent.move_on_after(0.002) as scope:
                right.recv(10)
            assert scope.cancelled_caught
        assert beats() > 1


def test_a_real_thread_and_native_get_the_original() -> None:
    left, right = tls_pair()
    with left, right:

        def use() -> bytes:
            assert not _core.in_task()
            left.sendall(b"from a real thread")
            return left.recv(100)

        def answer() -> None:
            assert right.recv(100) == b"from a real thread"
            right.sendall(b"to it")

        waiting = started(answer)
        assert aevent.offload(use) == b"to it"
        waiting.join()
        right.sendall(b"native")
        with aevent.native():
            assert left.recv(100) == b"native"
            left.settimeout(0.001)
            with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
                left.recv(1)


def test_the_originals_class_blocks() -> None:
    context = client_context()
    context.sslsocket_class = ssl.SSLSocket._aevent_orig  # type: ignore[attr-defined]
    raw, other = raw_pair()
    turns: list[int] = []
    with other:
        raw.settimeout(0.005)
        started(lambda: turns.append(1))
        with pytest.raises(TimeoutError):
            context.wrap_socket(raw, server_hostname="localhost")
        assert not turns


def test_requests_over_https() -> None:
    import requests

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        authority().cert_pem.tempfile() as trusted,
    ):
        server.socket = server_context().wrap_socket(server.socket, server_side=True)
        serving = started(server.serve_forever, 0.01)
        url = f"https://localhost:{server.server_address[1]}"
        answers: list[str] = []

        def fetch(number: int) -> None:
            with requests.Session() as session:
                for part in "ab":
                    answers.append(
                        session.get(f"{url}/{number}{part}", verify=trusted, timeout=5).text
                    )

        with heartbeat() as beats:
            threads = [started(fetch, number) for number in range(4)]
            for thread in threads:
                thread.join()
            assert beats() > 1
        assert sorted(answers) == sorted(f"/{number}{part}" for number in range(4) for part in "ab")
        server.shutdown()
        serving.join()


def test_it_does_not_matter_who_imported_ssl_before(backend: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import ssl, sys
from ssl import SSLContext, SSLSocket, create_default_context
import requests, urllib3

early = create_default_context()
import aevent
aevent.setup(sys.argv[1])

def main():
    class Mine(SSLContext):
        pass
    for context in (early, create_default_context(), Mine(ssl.PROTOCOL_TLS_CLIENT),
                    urllib3.util.ssl_.create_urllib3_context()):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_COMPRESSION
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert isinstance(context, ssl.SSLContext)
    assert SSLSocket is ssl.SSLSocket
    assert SSLContext is ssl.SSLContext
    assert requests.Session().get_adapter("https://x") is not None

aevent.run(main)
main()
print("fine")
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program), backend], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
