"""`select`: the function, `poll` and `epoll`."""

from __future__ import annotations

import decimal
import errno
import math
import os
import pty
import select
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.monkey.descriptors import pipe
from tests.monkey.heartbeat import heartbeat
from tests.monkey.threads import later, let_others_wait, taking_turns


def ready_by_select(fd: int, timeout: float | None) -> bool:
    return bool(select.select([fd], [], [], timeout)[0])


def ready_by_poll(fd: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def ready_by_epoll(fd: int, timeout: float | None) -> bool:
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        return bool(epoll.poll(timeout))


WAYS = (ready_by_select, ready_by_poll, ready_by_epoll)


def test_each_waits_for_pipes_sockets_and_terminals() -> None:
    for ready in WAYS:
        with pipe() as (reader, writer):
            assert not ready(reader, 0)
            assert not ready(reader, 0.001)
            later(os.write, writer, b"x")
            assert ready(reader, 30)
            assert ready(reader, None)
        left, right = socket.socketpair()
        with left, right:
            # Ours already, as a socket that was waited for.
            later(right.send, b"x")
            assert left.recv(1) == b"x"
            later(right.send, b"x")
            assert ready(left.fileno(), None)
            assert left.recv(1) == b"x"
        master, slave = pty.openpty()
        later(os.write, slave, b"x")
        assert ready(master, 30)
        os.close(master)
        os.close(slave)


def test_waiting_does_not_stop_others() -> None:
    for ready in WAYS:
        with pipe() as (reader, _):
            with heartbeat() as heart:
                assert not ready(reader, 0.02)
                assert heart.ticks


def test_a_socket_is_waited_for_in_two_ways_at_once() -> None:
    left, right = socket.socketpair()
    with left, right:
        results: list[object] = []
        threads = [
            threading.Thread(target=lambda: results.append(left.recv(1, socket.MSG_PEEK))),
            threading.Thread(target=lambda: results.append(ready_by_select(left.fileno(), 30))),
            threading.Thread(target=lambda: results.append(ready_by_poll(left.fileno(), 30))),
        ]
        for thread in threads:
            thread.start()
        later(right.send, b"x")
        for thread in threads:
            thread.join()
        assert sorted(map(str, results)) == ["True", "True", "b'x'"]


def test_select_returns_the_objects_it_was_given() -> None:
    left, right = socket.socketpair()
    with left, right, pipe() as (reader, writer):
        reading: list[Any] = [left, reader]
        writing: list[Any] = [right, writer, right]
        assert select.select(reading, writing, [left], 1) == ([], writing, [])
        later(right.send, b"x")
        assert select.select([left, left], [], [left]) == ([left, left], [], [])
        assert select.select(iter([left]), (right,), {left}) == ([left], [right], [])
        nothing: list[int] = []
        assert select.select(nothing, nothing, nothing, 0.001) == ([], [], [])


def test_regular_files_are_always_ready() -> None:
    with tempfile.TemporaryFile() as file:
        assert select.select([file], [file], [], None)[:2] == ([file], [file])
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert poll.poll() == [(file.fileno(), select.POLLIN)]
        # But never exceptional; waiting for that takes no more than its time, and stops nobody.
        with heartbeat() as heart:
            assert select.select([], [], [file], 0.03) == ([], [], [])
            assert heart.ticks
        with select.epoll() as epoll, pytest.raises(PermissionError):
            epoll.register(file)


def test_out_of_band_data_are_exceptional() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            peer, _ = server.accept()
            with peer:
                later(client.send, b"!", socket.MSG_OOB)
                assert select.select([], [], [peer], 30) == ([], [], [peer])


def test_closed_descriptors() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        os.close(writer)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            select.select([reader], [], [])
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll() == [(reader, select.POLLNVAL)]
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="file descriptor cannot be a negative integer"):
        select.select([sock], [], [])


def test_select_finds_ready_what_is_closed_meanwhile() -> None:
    """What happens is up to the system. On Linux nothing does, and the thread waits for good."""
    with pipe() as (reader, _), socket.create_server(("127.0.0.1", 0)) as server:
        later(os.close, reader)
        assert select.select([server, reader], [], [reader], 30) == ([reader], [], [reader])
        later(server.close)
        assert select.select([server], [], [], 30) == ([server], [], [])


def test_the_other_end_closes() -> None:
    for ready in WAYS:
        with pipe() as (reader, writer):
            later(os.close, writer)
            assert ready(reader, 30)


def outcome(call: Callable[[Any], object], argument: Any) -> object:
    try:
        return call(argument)
    except Exception as error:
        return type(error), str(error)


class Index:
    def __index__(self) -> int:
        return 0


def test_timeouts_are_checked_as_by_the_originals() -> None:
    with pipe() as (reader, writer):
        os.write(writer, b"x")

        def by_select(kind: Any) -> Callable[[Any], object]:
            return lambda timeout: kind([reader], [], [], timeout)

        def by_object(kind: Any) -> Callable[[Any], object]:
            waiter = kind()
            waiter.register(reader, select.POLLIN)
            return lambda timeout: waiter.poll(timeout)

        kinds: tuple[tuple[Any, Any], ...] = (
            (by_select, select.select),
            (by_object, select.poll),
            (by_object, select.epoll),
        )
        timeout: Any
        for make, kind in kinds:
            ours, theirs = make(kind), make(kind._aevent_orig)
            for timeout in (
                *(None, 0, 0.0, 1, 0.5, True, Index(), -1, -0.5, 1e-9),
                *(math.nan, math.inf, 1e100, 10**30, 2**31, 2**31 - 1, 2**63, "1", [], 1j),
                decimal.Decimal(1),
            ):
                assert outcome(ours, timeout) == outcome(theirs, timeout), (kind, timeout)


def test_other_arguments_are_checked_as_by_the_originals() -> None:
    original = select.select._aevent_orig  # type: ignore[attr-defined]

    class NoNumber:
        def fileno(self) -> str:
            return "3"

    for arguments in (
        *([1, [], []], [[], [], 1], [[object()], [], []], [[-1], [], []], [["x"], [], []]),
        *([[10**6], [], []], [[NoNumber()], [], []]),
    ):
        ours = outcome(lambda a: select.select(*a), arguments)
        assert ours == outcome(lambda a: original(*a), arguments), arguments
    wrong: tuple[Any, ...]
    for wrong in ((), ([], []), ([], [], [], 0, 0)):
        with pytest.raises(TypeError, match=r"^select\(\) "):
            select.select(*wrong)
    poll = select.poll()
    poll_original = select.poll._aevent_orig()  # type: ignore[attr-defined]
    for call in (
        lambda poll: poll.register(object()),
        lambda poll: poll.register(-1),
        lambda poll: poll.register(1, -1),
        lambda poll: poll.register(1, 1 << 16),
        lambda poll: poll.modify(12345, 1),
        lambda poll: poll.unregister(12345),
        lambda poll: type(poll)(),
    ):
        assert outcome(call, poll) == outcome(call, poll_original)


def test_poll_remembers_what_is_registered() -> None:
    with pipe() as (reader, writer):
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(writer, select.POLLOUT)
        assert poll.poll() == [(writer, select.POLLOUT)]
        poll.modify(writer, 0)
        later(os.write, writer, b"x")
        assert poll.poll(30_000) == [(reader, select.POLLIN)]
        poll.unregister(reader)
        assert poll.poll(1) == []
        poll.register(writer)
        # Nothing is registered twice: the last mask counts.
        poll.register(writer, 0)
        assert poll.poll(1) == []


def test_a_poll_object_is_waited_for_by_one_at_a_time() -> None:
    with pipe() as (reader, writer):
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        thread = threading.Thread(target=poll.poll)
        thread.start()
        let_others_wait()
        with pytest.raises(RuntimeError, match=r"concurrent poll\(\) invocation"):
            poll.poll()
        os.write(writer, b"x")
        thread.join()


def test_epoll_objects() -> None:
    with pipe() as (reader, writer):
        epoll = select.epoll(sizehint=1, flags=select.EPOLL_CLOEXEC)
        with epoll as entered:
            assert entered is epoll
            epoll.register(reader, eventmask=select.EPOLLIN | select.EPOLLET)
            epoll.register(fd=writer, eventmask=select.EPOLLOUT)
            assert epoll.poll(timeout=1, maxevents=1) == [(writer, select.EPOLLOUT)]
            epoll.unregister(writer)
            later(os.write, writer, b"x")
            assert epoll.poll() == [(reader, select.EPOLLIN)]
            assert epoll.poll(0) == []
            epoll.modify(reader, select.EPOLLIN)
            assert epoll.poll(-1) == [(reader, select.EPOLLIN)]
            again = select.epoll.fromfd(os.dup(epoll.fileno()))
            assert again.poll(1) == [(reader, select.EPOLLIN)]
            again.close()
            with pytest.raises(FileExistsError):
                epoll.register(reader)
            with pytest.raises(FileNotFoundError):
                epoll.unregister(writer)
            with pytest.raises(ValueError, match="maxevents must be greater than 0"):
                epoll.poll(0, 0)
        assert epoll.closed
        for call in (epoll.fileno, epoll.poll, epoll.__enter__):
            with pytest.raises(ValueError, match="I/O operation on closed epoll object"):
                call()
        epoll.close()


def test_the_originals_block_the_thread_under_native() -> None:
    with pipe() as (reader, _), taking_turns() as turns, aevent.native():
        before = turns()
        for ready in WAYS:
            assert not ready(reader, 0.005)
        assert turns() == before


def test_a_deadline_ends_each() -> None:
    for ready in WAYS:
        with pipe() as (reader, _):
            with aevent.move_on_after(0.002) as scope:
                ready(reader, None)
            assert scope.cancelled_caught
