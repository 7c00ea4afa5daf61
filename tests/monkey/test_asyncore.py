"""`asyncore`, `asynchat` and `smtpd`: programs that use them. Python 3.12 has them no more."""

from __future__ import annotations

import importlib
import smtplib
import socket
import sys
import threading
import warnings
from typing import Any

import pytest

from tests.monkey.heartbeat import heartbeat

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="removed in Python 3.12")


def old(name: str) -> Any:
    """A module that warns of its end when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(name)


def test_asynchat() -> None:
    asyncore, asynchat = old("asyncore"), old("asynchat")
    sockets: dict[int, Any] = {}

    class Session(asynchat.async_chat):  # type: ignore[misc]
        """Answers each line reversed."""

        def __init__(self, connection: socket.socket) -> None:
            super().__init__(connection, map=sockets)
            self.set_terminator(b"\n")
            self.parts: list[bytes] = []

        def collect_incoming_data(self, data: bytes) -> None:
            self.parts.append(data)

        def found_terminator(self) -> None:
            self.push(b"".join(self.parts)[::-1] + b"\n")
            self.parts.clear()

    class Server(asyncore.dispatcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(map=sockets)
            self.create_socket()
            self.bind(("127.0.0.1", 0))
            self.listen(5)

        def handle_accepted(self, connection: socket.socket, _address: object) -> None:
            Session(connection)

    def ask(number: int) -> None:
        with socket.create_connection(server.socket.getsockname(), 30) as client:
            file = client.makefile("rwb")
            for turn in range(3):
                file.write(b"%d of %d\n" % (turn, number))
                file.flush()
                assert file.readline() == (b"%d of %d" % (turn, number))[::-1] + b"\n"
            file.close()
        finished.append(number)

    for poll in (False, True):
        finished: list[int] = []
        server = Server()
        with heartbeat() as heart:
            clients = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for client in clients:
                client.start()
            ticks = heart.ticks
            while len(finished) < 3:
                # It waits in select(), or in poll().
                asyncore.loop(timeout=0.1, use_poll=poll, map=sockets, count=1)
            assert heart.ticks >= ticks
            for client in clients:
                client.join()
        asyncore.close_all(sockets)


def test_smtpd() -> None:
    asyncore, smtpd = old("asyncore"), old("smtpd")
    sockets: dict[int, Any] = {}
    received: list[bytes] = []

    class Server(smtpd.SMTPServer):  # type: ignore[misc]
        def process_message(self, *args: Any, **_options: Any) -> None:
            received.append(args[3])

    server = Server(("127.0.0.1", 0), None, map=sockets)
    finished: list[int] = []

    def send(number: int) -> None:
        with smtplib.SMTP("127.0.0.1", server.socket.getsockname()[1], timeout=30) as client:
            client.sendmail("me@localhost", ["you@localhost"], f"Subject: {number}\r\n\r\nhello")
        finished.append(number)

    with heartbeat():
        clients = [threading.Thread(target=send, args=(number,)) for number in range(3)]
        for client in clients:
            client.start()
        while len(finished) < 3:
            # Not for long: a client finishes after the last event that there is here.
            asyncore.loop(timeout=0.1, map=sockets, count=1)
        for client in clients:
            client.join()
    asyncore.close_all(sockets)
    assert sorted(received) == [b"Subject: %d\n\nhello" % number for number in range(3)]
