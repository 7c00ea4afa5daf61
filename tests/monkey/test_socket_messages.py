"""`recv` and its kin with MSG_WAITALL; `sendmsg`: all of it, and errors in the original's words."""

from __future__ import annotations

import array
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

ALL = socket.MSG_WAITALL


def test_receiving_all_that_was_asked_for() -> None:
    ours, theirs = socket.socketpair()
    buffer = bytearray(6)

    def recvfrom_into(size: int) -> bytes:
        count, address = ours.recvfrom_into(buffer, size, ALL)
        assert not address
        return bytes(buffer[:count])

    def recvfrom_into_by_name(size: int) -> bytes:
        count, _ = ours.recvfrom_into(buffer=buffer, nbytes=size, flags=ALL)
        return bytes(buffer[:count])

    def recvmsg_into(size: int) -> bytes:
        half, other = bytearray(size // 2), bytearray(size - size // 2)
        count, beside, _, address = ours.recvmsg_into(iter((half, other)), 0, ALL)
        assert not beside and not address
        return bytes(half + other)[:count]

    ways: list[Callable[[int], bytes]] = [
        lambda size: ours.recv(size, ALL),
        lambda size: bytes(buffer[: ours.recv_into(buffer, size, ALL)]),
        lambda size: ours.recvfrom(size, ALL)[0],
        recvfrom_into,
        recvfrom_into_by_name,
        lambda size: ours.recvmsg(size, 0, ALL)[0],
        recvmsg_into,
    ]

    def send() -> None:
        for index in range(len(ways) * 3):
            time.sleep(0.001)
            theirs.sendall(b"%02d" % index)
        theirs.sendall(b"rest")
        theirs.close()

    thread = threading.Thread(target=send)
    with ours:
        thread.start()
        for index, way in enumerate(ways):
            expected = b"".join(b"%02d" % (index * 3 + each) for each in range(3))
            assert way(6) == expected
        assert ours.recvfrom(100_000, ALL)[0] == b"rest"
        for way in ways:
            assert way(6) == b""
        thread.join()


def test_less_is_received_where_nobody_is_to_wait() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"12")
        assert ours.recvfrom(4, ALL | socket.MSG_PEEK)[0] == b"12"
        assert ours.recvmsg(4, 0, ALL | socket.MSG_DONTWAIT)[0] == b"12"
        theirs.sendall(b"34")
        ours.settimeout(5)
        assert ours.recvfrom(4, ALL)[0] == b"34"  # it is non-blocking for the kernel
    one, two = socket.socketpair(type=socket.SOCK_DGRAM)
    with one, two:
        two.send(b"12")
        assert one.recvfrom(4, ALL)[0] == b"12"


def test_what_comes_beside_the_data_ends_it() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))]

    def send() -> None:
        theirs.sendall(b"12")
        time.sleep(0.001)
        theirs.sendmsg([b"34"], rights)
        theirs.sendall(b"56")

    thread = threading.Thread(target=send)
    with ours, theirs:
        thread.start()
        data, beside, _, _ = ours.recvmsg(6, 100, ALL)
        thread.join()
        assert data == b"1234"
        ((_, _, received),) = beside
        os.close(int.from_bytes(received, "little"))
    os.close(reader)
    os.close(writer)


def test_errors_are_in_the_originals_words() -> None:
    def fails() -> Any:
        yield b"data"
        raise ZeroDivisionError

    ours, theirs = socket.socketpair()
    with ours, theirs:
        calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
            (ours.sendmsg, (5,), r"sendmsg\(\) argument 1 must be an iterable"),
            (ours.sendmsg, ([b"x"], 5), r"sendmsg\(\) argument 2 must be an iterable"),
            (ours.sendmsg, ([5],), "a bytes-like object is required, not 'int'"),
            (ours.recvmsg_into, (5, 0, ALL), r"recvmsg_into\(\) argument 1 must be an iterable"),
            (ours.recvmsg_into, ([bytearray(1)], 0, "x"), "cannot be interpreted as an integer"),
            (ours.recvfrom, (1, "x"), "cannot be interpreted as an integer"),
            (ours.recvfrom_into, (), "missing required argument 'buffer'"),
        ]
        for call, args, message in calls:
            with pytest.raises(TypeError, match=message):
                call(*args)
        with pytest.raises(ZeroDivisionError):
            ours.sendmsg(fails())
