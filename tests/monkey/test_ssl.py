"""`ssl`."""

from __future__ import annotations

import errno
import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.monkey.threads import later, let_others_wait, started
from tests.monkey.tls import (
    BIG,
    client_context,
    heartbeat,
    is_blocking,
    raw_pair,
    server_context,
    tls_pair,
)


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
        assert select.select([left], [], [], 30)[0] == [left]
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
