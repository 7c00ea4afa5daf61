"""What every patched function and class has in common."""

from __future__ import annotations

import _thread
import functools
import inspect
import pickle
import queue
import select
import selectors
import socket
import subprocess
import threading
import time
from typing import Any
from unittest import mock

import pytest

import aevent

FUNCTIONS: tuple[Any, ...] = (
    time.sleep,
    _thread.start_new_thread,
    _thread.get_ident,
    threading.get_ident,
    threading.current_thread,
    select.select,
    select.poll,
    socket.getaddrinfo,
    socket.gethostbyname,
    socket.gethostbyname_ex,
    socket.gethostbyaddr,
    socket.getnameinfo,
)
METHODS: tuple[Any, ...] = (
    threading.Thread.start,
    threading.Thread.join,
    threading.Thread.is_alive,
    socket.socket.recv,
    socket.socket.sendall,
    socket.socket.connect,
    socket.socket.close,
    selectors.SelectSelector.select,
)
CLASSES: tuple[Any, ...] = (
    *(threading.Thread, threading.Lock, threading.RLock, threading.Condition, threading.Event),
    *(threading.Semaphore, threading.BoundedSemaphore, threading.local, _thread.LockType),
    *(queue.SimpleQueue, socket.socket, select.epoll, selectors.EpollSelector),
)


def test_originals_are_at_hand() -> None:
    for patched in (*FUNCTIONS, *METHODS, *CLASSES):
        assert callable(patched._aevent_orig), patched
        assert callable(patched._aevent_new), patched
        assert patched._aevent_orig is not patched, patched


def test_a_patched_function_can_be_looked_into() -> None:
    """Programs count the arguments of a function by its `__code__`."""
    init: Any = subprocess.Popen.__init__
    original = init._aevent_orig
    assert init.__code__ is original.__code__
    assert init.__defaults__ == original.__defaults__
    assert init.__kwdefaults__ == original.__kwdefaults__
    assert init.__annotations__ == original.__annotations__
    # What is written in C has none.
    assert not hasattr(time.sleep, "__code__")


def test_select_tells_which_applies() -> None:
    for patched in (*FUNCTIONS, *CLASSES):
        assert patched._aevent_select() is patched._aevent_new, patched
        with aevent.native():
            assert patched._aevent_select() is patched._aevent_orig, patched


def test_functions_look_like_the_originals() -> None:
    for patched in (*FUNCTIONS, *METHODS):
        original = patched._aevent_orig
        for name in ("__name__", "__doc__"):
            assert getattr(patched, name) == getattr(original, name), (patched, name)
        try:
            signature = inspect.signature(original)
        except ValueError:
            continue
        assert inspect.signature(patched) == signature, patched


def test_names_and_modules_are_where_they_are_found() -> None:
    for patched in FUNCTIONS:
        owner = inspect.getmodule(patched)
        assert owner is not None
        assert not owner.__name__.startswith("aevent"), patched
    for kind in CLASSES:
        assert not kind.__module__.startswith("aevent"), kind


def test_functions_are_pickled_by_name() -> None:
    for patched in (time.sleep, select.select, socket.getaddrinfo, threading.current_thread):
        assert pickle.loads(pickle.dumps(patched)) is patched
    assert pickle.loads(pickle.dumps(socket.socket)) is socket.socket
    assert pickle.loads(pickle.dumps(threading.Thread)) is threading.Thread
    assert pickle.loads(pickle.dumps(queue.SimpleQueue)) is queue.SimpleQueue


def test_functions_are_wrapped() -> None:
    @functools.wraps(time.sleep)
    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    assert sleep.__name__ == "sleep"
    assert sleep.__doc__ == time.sleep.__doc__
    sleep(0)


def test_functions_are_no_methods_and_methods_bind() -> None:
    class Holder:
        pause: Any = time.sleep

    Holder().pause(0)
    left, right = socket.socketpair()
    with left, right:
        send = left.send
        assert send.__self__ is left  # type: ignore[attr-defined]
        assert send.__name__ == "send"
        threading.Timer(0.001, send, (b"x",)).start()
        assert right.recv(1) == b"x"


def test_functions_and_methods_are_mocked() -> None:
    with mock.patch("time.sleep") as sleep:
        time.sleep(5)
    sleep.assert_called_once_with(5)
    time.sleep(0)
    for autospec in (False, True):
        with mock.patch.object(socket.socket, "recv", autospec=autospec, return_value=b"mocked"):
            with socket.socket() as sock:
                assert sock.recv(5) == b"mocked"
    with mock.patch.object(threading.Thread, "start") as start:
        threading.Thread().start()
    start.assert_called_once_with()
    with mock.patch.object(socket, "getaddrinfo", return_value=[]) as look_up:
        assert socket.getaddrinfo("name", 1) == []
    look_up.assert_called_once_with("name", 1)
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        assert left.recv(5) == b"x"


def test_types_are_the_same_whoever_asks() -> None:
    assert isinstance(threading.Lock(), _thread.LockType)
    assert type(threading.RLock()) is type(threading.RLock()) is threading.RLock
    assert isinstance(threading.Event(), threading.Event)
    assert isinstance(select.epoll(), select.epoll)
    with socket.socket() as sock:
        assert type(sock) is socket.socket
    with aevent.native():
        assert isinstance(threading.Lock(), _thread.LockType)


def test_patch_makes_a_pair_of_the_users_functions() -> None:
    def original(value: int) -> str:
        "The documentation."
        return f"original {value}"

    def new(value: int) -> str:
        return f"new {value}"

    pair = aevent.patch_(new, name="package.module.function", orig=original)
    assert pair(1) == "new 1"
    with aevent.native():
        assert pair(1) == "original 1"
        with aevent.patched():
            assert pair(value=2) == "new 2"
    assert (pair.__module__, pair.__name__) == ("package.module", "function")
    assert pair.__doc__ == "The documentation."
    assert pair._aevent_orig is original
    assert pair._aevent_new is new
    assert pair._aevent_select() is new
    with pytest.raises(TypeError, match="expects a callable as 'orig', not 5"):
        aevent.patch_(new, name="name", orig=5)  # type: ignore[arg-type]


def test_outside_a_task_the_originals_are_called(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time
pair = aevent.patch_(lambda: "new", name="x", orig=lambda: "original")
assert pair() == "original" and pair._aevent_select() is pair._aevent_orig
assert time.sleep._aevent_select() is time.sleep._aevent_orig
assert threading.Lock._aevent_select() is threading.Lock._aevent_orig
seen = []
def main():
    thread = threading.Thread._aevent_orig(target=lambda: seen.append(pair()))
    thread.start(); thread.join()
    seen.append(pair())
aevent.run(main)
assert seen == ["original", "new"], seen
assert pair() == "original"
"""
    fresh_ok(script, backend)


def test_what_is_excluded_stays_as_it_is(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, time
sleep = time.sleep
import aevent
aevent.setup(sys.argv[1], exclude=["time", "select"])
aevent.setup(sys.argv[1])
import select, threading
assert time.sleep is sleep
assert not hasattr(select.select, "_aevent_orig")
assert hasattr(threading.Lock, "_aevent_orig")
def main():
    seen = []
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), seen.append(1)))
    thread.start()
    with aevent.native():  # a call that does not wait may let it run in a task
        go.set()
    sleep(0.01)
    assert seen == []
    thread.join()
    assert seen == [1]
aevent.run(main)
"""
    fresh_ok(script, backend)
