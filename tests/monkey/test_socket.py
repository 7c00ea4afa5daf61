"""`socket`."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.monkey.threads import later, started, taking_turns

Thread = threading.Thread


def test_every_way_to_receive_waits() -> None:
    left, right = socket.socketpair()
    with left, right:
        buffer = bytearray(4)
        ways: tuple[Callable[[], bytes], ...] = (
            lambda: left.recv(4),
            lambda: left.recvfrom(4)[0],
            lambda: left.recvmsg(4)[0],
            lambda: bytes(buffer[: left.recv_into(buffer)]),
            lambda: bytes(buffer[: left.recvfrom_into(buffer)[0]]),
            lambda: bytes(buffer[: left.recvmsg_into([buffer])[0]]),
        )
        for receive in ways:
            buffer[:] = bytes(4)
            later(right.sendall, b"data")
            assert receive() == b"data"
        later(right.close)
        assert left.recv(4) == b""


def test_every_way_to_send_waits_for_room() -> None:
    data = bytes(1 << 16)

    def sendall(sock: socket.socket) -> int:
        sock.sendall(data)
        return len(data)

    ways: tuple[Callable[[socket.socket], int], ...] = (
        lambda sock: sock.send(data),
        lambda sock: sock.sendmsg([data]),
        sendall,
    )
    for send in ways:
        left, right = socket.socketpair()
        received: list[int] = []

        def drain(sock: socket.socket, counts: list[int]) -> None:
            while chunk := sock.recv(1 << 20):
                counts.append(len(chunk))

        with right:
            with left:
                thread = started(drain, right, received)
                sent = sum(send(left) for _ in range(40))
            thread.join()
        assert sum(received) == sent > 1 << 18


def test_timeouts_of_each_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.005)
        with pytest.raises(TimeoutError, match="timed out"):
            server.accept()
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0.005)
        for receive in (
            lambda: left.recv(1),
            lambda: left.recv_into(bytearray(1)),
            lambda: left.recvfrom(1),
            lambda: left.recvmsg(1),
            lambda: left.sendall(bytes(1 << 24)),
        ):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="timed out"):
                receive()
            assert time.monotonic() - began >= 0.004
        assert socket.timeout is TimeoutError


def test_non_blocking_sockets_do_not_wait() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        for call in (
            lambda: left.recv(1),
            lambda: left.recv_into(bytearray(1)),
            lambda: left.recvfrom(1),
            lambda: left.recvmsg(1),
            lambda: [left.send(bytes(1 << 16)) for _ in range(1000)],
        ):
            with pytest.raises(BlockingIOError):
                call()
        assert left.gettimeout() == 0.0
        assert not left.getblocking()


def test_dontwait_is_obeyed_by_blocking_sockets_only() -> None:
    left, right = socket.socketpair()
    flag = socket.MSG_DONTWAIT
    with left, right:
        for call in (
            lambda: left.recv(1, flag),
            lambda: left.recv_into(bytearray(1), 0, flag),
            lambda: [left.send(bytes(1 << 16), flag) for _ in range(1000)],
            lambda: left.recvfrom(1, flag),
            lambda: left.recvfrom_into(bytearray(1), 0, flag),
            lambda: left.recvmsg(1, 0, flag),
            lambda: left.recvmsg_into([bytearray(1)], 0, flag),
            lambda: [left.sendmsg([bytes(1 << 16)], [], flag) for _ in range(1000)],
        ):
            with pytest.raises(BlockingIOError):
                call()
        left.settimeout(0.001)
        with pytest.raises(TimeoutError):
            left.recvfrom(1, flag)


def test_an_inherited_file_stays_blocking() -> None:
    left, right = socket.socketpair()
    with left, right:
        later(right.send, b"x")
        assert left.recv(1) == b"x"
        later(right.send, b"x")
        assert left.recvfrom(1)[0] == b"x"
        assert os.get_blocking(left.fileno())
        left.settimeout(1)
        assert not os.get_blocking(left.fileno())


def test_closing_wakes_who_waits() -> None:
    ways: tuple[Callable[[socket.socket], object], ...] = (
        lambda sock: sock.recv(1),
        lambda sock: sock.recvfrom(1),
        lambda sock: sock.recv_into(bytearray(1)),
    )
    for wait in ways:
        left, right = socket.socketpair()
        later(left.close)
        with right, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            wait(left)
    server = socket.create_server(("127.0.0.1", 0))
    later(server.close)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        server.accept()


def test_shutting_down_wakes_who_waits() -> None:
    left, right = socket.socketpair()
    with left, right:
        later(left.shutdown, socket.SHUT_RD)
        assert left.recv(1) == b""


def test_closed_sockets_are_refused() -> None:
    sock = socket.socket()
    sock.close()
    for call in (
        lambda: sock.recv(1),
        lambda: sock.send(b"x"),
        lambda: sock.sendall(b"x"),
        lambda: sock.recvfrom(1),
        lambda: sock.accept(),
        lambda: sock.connect(("127.0.0.1", 1)),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            call()


def test_connect_and_accept_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        accepted: list[socket.socket] = []
        thread = started(lambda: accepted.append(server.accept()[0]))
        with socket.create_connection(address, timeout=30) as client:
            thread.join()
            assert client.gettimeout() == 30
            with accepted[0] as peer:
                assert type(peer) is socket.socket
                assert peer.gettimeout() is None
                assert peer.getpeername() == client.getsockname()
        with socket.socket() as client:
            assert client.connect_ex(address) == 0
            server.accept()[0].close()
    with socket.socket() as client:
        assert client.connect_ex(address) == errno.ECONNREFUSED
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(address) in (errno.EINPROGRESS, errno.ECONNREFUSED)


def test_names_are_looked_up_when_connecting() -> None:
    with socket.create_server(("localhost", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1])):
            server.accept()[0].close()
    with socket.socket() as sock:
        with pytest.raises(socket.gaierror):
            sock.connect(("name.invalid", 1))
        with pytest.raises(socket.gaierror):
            sock.connect_ex(("name.invalid", 1))


def test_accept_takes_the_default_timeout() -> None:
    assert socket.getdefaulttimeout() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        for default, expected in ((None, None), (3.0, 3.0)):
            with socket.create_connection(server.getsockname()):
                socket.setdefaulttimeout(default)
                try:
                    peer, _ = server.accept()
                finally:
                    socket.setdefaulttimeout(None)
                with peer:
                    assert peer.gettimeout() == expected


def test_datagrams() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("localhost", 0))
        later(two.sendto, b"one", one.getsockname())
        assert one.recvfrom(10) == (b"one", two.getsockname())
        later(two.sendto, b"two", 0, ("localhost", one.getsockname()[1]))
        assert one.recvfrom(10) == (b"two", two.getsockname())
        later(two.sendmsg, [b"th", b"ree"], [], 0, one.getsockname())
        assert one.recvmsg(10)[0] == b"three"
        one.connect(two.getsockname())
        one.send(b"")
        assert two.recv(10) == b""


def test_unix_sockets_pass_descriptors() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/socket")
            peer, address = server.accept()
            assert address == ""
            with peer, open(f"{folder}/file", "w+b") as file:
                file.write(b"content")
                file.flush()
                later(socket.send_fds, client, [b"x"], [file.fileno()])
                _, received, _, _ = socket.recv_fds(peer, 1, 1)
                with open(received[0], "rb") as copy:
                    copy.seek(0)
                    assert copy.read() == b"content"
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
                later(client.sendmsg, [b"y"], rights)
                data, ancillary, _, _ = peer.recvmsg(1, socket.CMSG_SPACE(4))
                assert data == b"y"
                os.close(struct.unpack("i", ancillary[0][2])[0])


def test_a_full_backlog_of_a_unix_socket_is_waited_for() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        server.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        threads = [started(client.connect, f"{folder}/socket") for client in clients]
        for _ in clients:
            server.accept()[0].close()
        for thread, client in zip(threads, clients, strict=True):
            thread.join()
            client.close()


def test_netlink_sockets() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
        request = struct.pack("=IHHII", 20, 18, 0x301, 1, 0) + b"\0" * 4
        sock.send(request)
        reply = sock.recv(1 << 16)
        assert struct.unpack_from("=IHHII", reply)[3] == 1


def test_descriptors_are_duplicated_handed_over_and_given_up() -> None:
    left, right = socket.socketpair()
    with right:
        with left.dup() as copy, socket.fromfd(right.fileno(), right.family, right.type) as other:
            later(other.sendall, b"x")
            assert copy.recv(1) == b"x"
        # Two objects on one descriptor; giving one up leaves the other as it was.
        second = socket.socket(fileno=left.fileno())
        later(right.sendall, b"y")
        assert second.recv(1) == b"y"
        second.detach()
        later(right.sendall, b"z")
        assert left.recv(1) == b"z"
        number = left.detach()
        assert left.fileno() == -1
        with socket.socket(fileno=number) as again:
            later(right.sendall, b"w")
            assert again.recv(1) == b"w"


def test_data_and_the_end_that_come_together_are_both_read() -> None:
    left, right = socket.socketpair()
    with left, left.makefile("rb") as file:
        result: list[bytes] = []
        thread = started(lambda: result.append(file.read()))
        time.sleep(0)
        right.sendall(b"all")
        right.close()
        thread.join(30)
        assert result == [b"all"]


def test_arguments_are_checked() -> None:
    left, right = socket.socketpair()
    calls: tuple[Callable[[Any], object], ...] = (
        lambda sock: sock.recv(-1),
        lambda sock: sock.recv("1"),
        lambda sock: sock.recv(),
        lambda sock: sock.send("text"),
        lambda sock: sock.sendall(None),
        lambda sock: sock.recv_into(bytearray(1), 2),
        lambda sock: sock.recv_into(bytearray(1), -1),
        lambda sock: sock.recv_into(b"x"),
        lambda sock: sock.recvmsg(-1),
        lambda sock: sock.sendto(b"x"),
        lambda sock: sock.connect(5),
    )
    original = socket.socket._aevent_orig  # type: ignore[attr-defined]
    with left, right, original(fileno=os.dup(left.fileno())) as old:
        for position, call in enumerate(calls):
            with pytest.raises((TypeError, ValueError)) as ours:
                call(left)
            with pytest.raises((TypeError, ValueError)) as theirs:
                call(old)
            assert ours.type is theirs.type, position


def test_the_original_class_blocks_the_thread() -> None:
    kind = socket.socket._aevent_orig  # type: ignore[attr-defined]
    left, right = socket.socketpair()
    with right, kind(fileno=left.detach()) as original, taking_turns() as turns:
        assert isinstance(original, socket.socket)
        original.settimeout(0.01)
        before = turns()
        with pytest.raises(TimeoutError):
            original.recv(1)
        assert turns() == before


def test_sockets_of_real_threads_and_under_native_block_the_thread() -> None:
    left, right = socket.socketpair()
    ran: list[int] = []
    with left, right:
        left.settimeout(0.01)
        with taking_turns() as turns, aevent.native():
            before = turns()
            with pytest.raises(TimeoutError):
                left.recv(1)
            assert turns() == before
        left.settimeout(30)
        real = Thread._aevent_orig  # type: ignore[attr-defined]
        thread = real(target=lambda: ran.append(left.recv(1)[0]))
        thread.start()
        time.sleep(0.01)
        right.send(b"x")
        thread.join()
        assert ran == [ord("x")]


def test_name_lookups_do_not_stop_others() -> None:
    ticks: list[int] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(1)

    thread = started(tick)
    host, port = socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)[0], 80
    assert (host, port) == ("127.0.0.1", 80)
    # However fast it is: if it stopped the others, this would never end.
    while not ticks:
        assert socket.gethostbyname("localhost") == "127.0.0.1"
    assert "127.0.0.1" in socket.gethostbyname_ex("localhost")[2]
    assert socket.getaddrinfo("localhost", "http", type=socket.SOCK_STREAM)
    assert socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM) == [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))
    ]
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("name.invalid", None)
    with pytest.raises(OSError):
        socket.gethostbyname("name.invalid")
    with pytest.raises(TypeError):
        socket.getnameinfo("text", 0)  # type: ignore[arg-type]
    stop.set()
    thread.join()


def test_a_deadline_ends_a_wait_and_leaves_the_socket_as_it_was() -> None:
    left, right = socket.socketpair()
    with left, right:
        ways: tuple[Callable[[], bytes], ...] = (
            lambda: left.recv(1),
            lambda: left.recvfrom(1)[0],
        )
        for receive in ways:
            with aevent.move_on_after(0.002) as scope:
                receive()
            assert scope.cancelled_caught
            assert left.gettimeout() is None
            right.send(b"x")
            assert receive() == b"x"


def test_no_connection_of_a_burst_is_dropped_by_a_short_backlog() -> None:
    gate = threading.Event()
    ways: tuple[Callable[[], object], ...] = (
        lambda: None,  # each client connects in its first turn
        lambda: time.sleep(0),  # all of them have begun
        gate.wait,  # all are woken at once
    )

    def serve(server: socket.socket) -> None:
        for _ in range(100):
            connection, _ = server.accept()
            started(answer, connection)

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.sendall(connection.recv(1))

    def connect(address: Any, begin: Callable[[], object]) -> None:
        begin()
        with socket.create_connection(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            # `tcpi_total_retrans`: how often the kernel had to try again.
            tried_again.append(int.from_bytes(info[100:104], sys.byteorder))

    for begin in ways:
        tried_again: list[int] = []
        with socket.create_server(("127.0.0.1", 0), backlog=5) as server:
            threads = [started(serve, server)]
            threads += [started(connect, server.getsockname(), begin) for _ in range(100)]
            time.sleep(0)
            gate.set()
            for thread in threads:
                thread.join()
        assert tried_again == [0] * 100


def test_a_blocking_socket_sends_all_of_it_at_once() -> None:
    ours, theirs = socket.socketpair()
    data = bytes(1_000_000)
    received: list[int] = []

    def receive() -> None:
        while got := theirs.recv(100_000):
            received.append(len(got))

    thread = threading.Thread(target=receive)
    with theirs:
        thread.start()
        assert ours.send(data) == len(data)
        assert ours.sendmsg(each for each in (b"", data[:7], data[7:])) == len(data)
        with ours.makefile("wb", buffering=0) as file:
            assert file.write(data) == len(data)
        ours.settimeout(5)
        assert 0 < ours.send(data) < len(data)  # it is non-blocking for the kernel
        ours.close()
        thread.join()
    assert sum(received) > 3 * len(data)
