"""`socketserver`: each kind of server, used as usual."""

from __future__ import annotations

import os
import socket
import socketserver
import tempfile
import threading
import time
from typing import Any

from tests.monkey.serving import serving


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class UpperDatagram(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


def ask(sock: socket.socket, *lines: bytes) -> list[bytes]:
    with sock, sock.makefile("rwb") as file:
        answers = []
        for line in lines:
            file.write(line)
            file.flush()
            answers.append(file.readline())
        return answers


def test_a_thread_for_each_connection() -> None:
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with serving(Server(("127.0.0.1", 0), Upper)) as address:
        # All are open before the first says anything.
        sockets = [socket.create_connection(address) for _ in range(5)]
        for sock in reversed(sockets):
            assert ask(sock, b"one\n", b"two\n") == [b"ONE\n", b"TWO\n"]


def test_one_connection_after_the_other() -> None:
    with serving(socketserver.TCPServer(("127.0.0.1", 0), Upper)) as address:
        assert ask(socket.create_connection(address), b"one\n") == [b"ONE\n"]
        assert ask(socket.create_connection(address), b"two\n") == [b"TWO\n"]


def test_unix_sockets() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        with serving(socketserver.ThreadingUnixStreamServer(path, Upper)):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            assert ask(sock, b"one\n") == [b"ONE\n"]


def test_datagrams() -> None:
    with serving(socketserver.ThreadingUDPServer(("127.0.0.1", 0), UpperDatagram)) as address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for word in (b"one", b"two"):
                sock.sendto(word, address)
                assert sock.recvfrom(100) == (word.upper(), address)


def test_handle_request_waits_and_gives_up() -> None:
    class Server(socketserver.TCPServer):
        gave_up = False

        def handle_timeout(self) -> None:
            self.gave_up = True

    with Server(("127.0.0.1", 0), Upper) as server:
        server.timeout = 0.005
        server.handle_request()
        assert server.gave_up
        server.timeout = 30
        beats = []
        other = threading.Thread(target=lambda: beats.append(time.sleep(0.001)))
        other.start()
        client = threading.Timer(
            0.002,
            lambda: beats.append(ask(socket.create_connection(server.server_address), b"x\n")),
        )
        client.start()
        server.handle_request()
        client.join()
        assert beats == [None, [b"X\n"]]


def test_what_a_handler_writes_is_sent_whole_and_counted() -> None:
    import array

    written: list[int] = []

    class Writer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            file: Any = socketserver._SocketWriter(self.request)  # type: ignore[attr-defined]
            for data in (b"x" * (1 << 20), b"", bytearray(b"yz"), array.array("i", [1, 2])):
                written.append(file.write(data))

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Writer)) as address:
        with socket.create_connection(address) as sock, sock.makefile("rb") as file:
            content = file.read()
    assert len(content) == (1 << 20) + 2 + 8
    assert written == [1 << 20, 0, 2, 8]
