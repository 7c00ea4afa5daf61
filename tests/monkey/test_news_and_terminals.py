"""`nntplib` and `telnetlib`: programs that use them. Python 3.13 has neither any more."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from typing import Any

import pytest

import aevent
from tests.monkey.conversation import Conversation, serving
from tests.monkey.heartbeat import heartbeat

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="removed in Python 3.13")


def old(name: str) -> Any:
    """A module that warns of its end when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(name)


class News(Conversation):
    greeting = b"200 ready"

    def answer(self, line: str) -> bool:
        command = line.split()[0].upper()
        if command == "CAPABILITIES":
            self.say(b"101 here", b"VERSION 2", b"READER", b".")
        elif command == "GROUP":
            self.say(b"211 2 1 2 " + line.split()[1].encode())
        elif command == "ARTICLE":
            self.say(b"220 1 <1@here> follows", b"Subject: one", b"", b"..a dot", b".")
        elif command == "POST":
            self.say(b"340 go ahead")
            while self.file.readline() != b".\r\n":
                pass
            self.say(b"240 thank you")
        elif command == "QUIT":
            self.say(b"205 bye")
            return False
        else:
            self.say(b"500 what?")
        return True


def test_nntplib() -> None:
    nntplib = old("nntplib")
    bodies: list[list[bytes]] = []

    def read(port: int) -> None:
        with nntplib.NNTP("127.0.0.1", port, timeout=30) as client:
            assert client.group("here")[1:4] == (2, 1, 2)
            bodies.append(client.article(1)[1].lines)
            assert client.post(b"Subject: two\r\n\r\nhello\r\n").startswith("240")

    with serving(News) as port:
        readers = [threading.Thread(target=read, args=(port,)) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert bodies == [[b"Subject: one", b"", b".a dot"]] * 3


class Shell(Conversation):
    greeting = b"login:"
    may_go_on = threading.Event()

    def answer(self, line: str) -> bool:
        if line == "wait":
            self.may_go_on.wait()
        self.say(line[::-1].encode(), b"$")
        return line != "exit"


def test_telnetlib() -> None:
    telnetlib = old("telnetlib")
    with serving(Shell) as port, telnetlib.Telnet("127.0.0.1", port, timeout=30) as client:
        client.read_until(b"login:")
        client.write(b"abc\n")
        assert client.read_until(b"$").strip() == b"cba\r\n$"
        client.write(b"xyz\n")
        assert client.expect([rb"q+", rb"zy(x)"], 30)[0] == 1
        client.read_until(b"$")
        # It waits in a selector.
        client.write(b"wait\n")
        with heartbeat() as heart, aevent.CancelScope() as scope:
            heart.after_ticks(scope.cancel)
            client.read_until(b"$")
        assert scope.cancelled_caught
        Shell.may_go_on.set()
    with serving(Shell) as port, telnetlib.Telnet("127.0.0.1", port, timeout=30) as client:
        client.write(b"exit\n")
        assert client.read_all().split() == [b"login:", b"tixe", b"$"]
