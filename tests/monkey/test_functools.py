"""`functools`, `contextlib`, `contextvars` and `weakref` in threads that wait in their midst."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import threading
import time
import weakref
from collections.abc import Iterator

from tests.monkey.heartbeat import heartbeat


def test_a_cached_call_that_waits() -> None:
    calls: list[int] = []

    @functools.lru_cache(maxsize=2)
    def slow(number: int) -> int:
        calls.append(number)
        time.sleep(0.001)
        return number * number

    def ask() -> None:
        results.extend(slow(number) for number in (1, 2, 1, 3, 1))

    results: list[int] = []
    with heartbeat():
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted([1, 4, 1, 9, 1] * 5)
    assert slow.cache_info().currsize == 2


def test_a_cached_property_that_waits() -> None:
    computed: list[str] = []

    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        @functools.cached_property
        def value(self) -> str:
            computed.append(self.name)
            time.sleep(0.001)
            return self.name.upper()

    things = [Thing("a"), Thing("b")]
    results: list[str] = []
    with heartbeat():
        threads = [
            threading.Thread(target=lambda thing=thing: results.append(thing.value))
            for thing in things * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == ["A"] * 3 + ["B"] * 3
    assert {"a", "b"} == set(computed)
    computed.clear()
    assert (things[0].value, things[1].value) == ("A", "B")
    assert computed == []


def test_single_dispatch_and_context_managers() -> None:
    log: list[str] = []
    depth: contextvars.ContextVar[int] = contextvars.ContextVar("depth", default=0)

    @functools.singledispatch
    def name(_thing: object) -> str:
        time.sleep(0)
        return "object"

    @name.register
    def _(_thing: int) -> str:
        time.sleep(0)
        return "int"

    @contextlib.contextmanager
    def deeper(number: int) -> Iterator[None]:
        token = depth.set(depth.get() + number)
        time.sleep(0)
        try:
            yield
        finally:
            time.sleep(0)
            depth.reset(token)

    def work(number: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(deeper(number))
            time.sleep(0.001)
            log.append(f"{name(number)} {depth.get()}")
        assert depth.get() == 0

    with heartbeat():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(log) == [f"int {3 * number}" for number in range(4)]


def test_weak_references_whose_callbacks_take_locks() -> None:
    class Thing:
        pass

    lock = threading.Lock()
    gone: list[int] = []

    def note(number: int) -> None:
        with lock:
            gone.append(number)

    def work(number: int) -> None:
        thing = Thing()
        weakref.finalize(thing, note, number)
        known[number] = thing
        time.sleep(0.001)
        del thing
        gc.collect()
        assert number not in known

    known: weakref.WeakValueDictionary[int, Thing] = weakref.WeakValueDictionary()
    with heartbeat():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(gone) == [0, 1, 2, 3, 4]
