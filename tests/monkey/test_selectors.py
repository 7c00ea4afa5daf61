"""`selectors`."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat
from tests.monkey.threads import taking_turns

KINDS: tuple[Any, ...] = (
    selectors.DefaultSelector,
    selectors.SelectSelector,
    selectors.PollSelector,
    selectors.EpollSelector,
)
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def test_each_selector_waits_without_stopping_others() -> None:
    for kind in KINDS:
        left, right = socket.socketpair()
        with left, right, kind() as selector:
            key = selector.register(left, READ, data="left")
            assert selector.select(0) == []
            assert selector.select(-1) == []
            with heartbeat() as heart:
                began = time.monotonic()
                assert selector.select(0.01) == []
                assert time.monotonic() - began >= 0.01
                assert heart.ticks
            threading.Timer(0.001, right.send, (b"x",)).start()
            assert selector.select() == [(key, READ)]
            selector.modify(left, READ | WRITE)
            assert [events for _, events in selector.select(30)] == [READ | WRITE]
            selector.unregister(left)
            assert selector.select(0.001) == []


def test_each_selector_waits_for_several() -> None:
    for kind in KINDS:
        reader, writer = os.pipe()
        with kind() as selector:
            selector.register(reader, READ)
            full = selector.register(writer, WRITE)
            assert selector.select() == [(full, WRITE)]
            selector.unregister(writer)
            threading.Timer(0.001, os.write, (writer, b"x")).start()
            assert [key.fd for key, _ in selector.select(30)] == [reader]
        os.close(reader)
        os.close(writer)


def test_errors_of_each_selector() -> None:
    for kind in KINDS:
        left, right = socket.socketpair()
        with left, right, kind() as selector:
            selector.register(left, READ)
            with pytest.raises(KeyError):
                selector.register(left, READ)
            with pytest.raises(ValueError, match="Invalid events"):
                selector.register(right, 0)
            with pytest.raises(KeyError):
                selector.unregister(right)
            with pytest.raises(TypeError):
                selector.select("soon")


def test_a_deadline_ends_each() -> None:
    for kind in KINDS:
        with kind() as selector, aevent.move_on_after(0.002) as scope:
            selector.select()
        assert scope.cancelled_caught


def test_the_original_class_blocks_the_thread() -> None:
    for kind in KINDS:
        original = kind._aevent_orig
        assert issubclass(original, kind)
        left, right = socket.socketpair()
        with left, right, original() as selector, taking_turns() as turns:
            selector.register(left, READ)
            before = turns()
            selector.select(0.005)
            assert turns() == before
