"""What the programs of the table of cancellation are made of: the APIs of aevent, and trio's."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aevent


class Place:
    """Where a program waits: a wait, and what ends it."""

    def __init__(
        self,
        wait: Callable[[], Any],
        release: Callable[[], object],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.wait = wait
        self.release = release
        self.close = close


class AsyncApi:
    """aevent's, in a coroutine."""

    current_effective_deadline = staticmethod(aevent.current_effective_deadline)
    current_time = staticmethod(aevent.current_time)
    CancelScope = aevent.CancelScope
    fail_at = staticmethod(aevent.fail_at)
    timeout: type[Exception] = TimeoutError

    @staticmethod
    async def checkpoint() -> None:
        await aevent.checkpoint()

    def places(self) -> dict[str, Callable[[], Place]]:
        return {
            "event": self.event,
            "lock": self.lock,
            "queue": self.queue,
            "group": self.group,
            "group of async": self.group_of_async,
            "start": self.start,
            "sleep": lambda: Place(aevent.sleep_forever, lambda: None),
            "sync": lambda: SyncApi().event(),
        }

    def event(self) -> Place:
        event = aevent.Event()
        return Place(event.async_wait, event.set)

    def lock(self) -> Place:
        lock = aevent.Lock()
        lock.acquire()
        return Place(lock.async_acquire, lock.release)

    def queue(self) -> Place:
        queue = aevent.SimpleQueue[int]()
        return Place(queue.async_get, lambda: queue.put(1))

    def group(self) -> Place:
        event = aevent.Event()

        async def wait() -> None:
            async with aevent.TaskGroup() as group:
                group.spawn(event.async_wait)
                group.spawn(event.wait)

        return Place(wait, event.set)

    def group_of_async(self) -> Place:
        event = aevent.Event()

        async def wait() -> None:
            async with aevent.TaskGroup() as group:
                group.spawn(event.async_wait)

        return Place(wait, event.set)

    def start(self) -> Place:
        event = aevent.Event()

        async def service(*, task_status: aevent.TaskStatus) -> None:
            await event.async_wait()
            task_status.started()

        async def wait() -> None:
            async with aevent.TaskGroup() as group:
                await group.start(service)

        return Place(wait, event.set)

    def spawn(self, group: aevent.TaskGroup, program: Callable[[], Any]) -> aevent.CancelScope:
        return group.spawn(program)


class SyncApi(AsyncApi):
    """aevent's and the standard library's, in synchronous code of a coroutine."""

    @staticmethod
    async def checkpoint() -> None:
        time.sleep(0)

    def places(self) -> dict[str, Callable[[], Place]]:
        return {
            "event": self.event,
            "lock": self.lock,
            "queue": self.queue,
            "group": self.group,
            "start": self.start,
            "recv": self.recv,
            "group of async": self.sync_group_of_async,
            "sleep": lambda: _place(lambda: time.sleep(3600), lambda: None),
            "await_": self.await_,
        }

    def event(self) -> Place:
        event = threading.Event()
        return _place(event.wait, event.set)

    def lock(self) -> Place:
        lock = threading.Lock()
        lock.acquire()
        return _place(lock.acquire, lock.release)

    def queue(self) -> Place:
        queue = aevent.SimpleQueue[int]()
        return _place(queue.get, lambda: queue.put(1))

    def group(self) -> Place:
        event = threading.Event()

        def wait() -> None:
            with aevent.TaskGroup() as group:
                group.spawn(event.wait)

        return _place(wait, event.set)

    def start(self) -> Place:
        event = threading.Event()

        def service(*, task_status: aevent.TaskStatus) -> None:
            event.wait()
            task_status.started()

        def wait() -> None:
            with aevent.TaskGroup() as group:
                aevent.await_(group.start(service))

        return _place(wait, event.set)

    def sync_group_of_async(self) -> Place:
        event = aevent.Event()

        def wait() -> None:
            with aevent.TaskGroup() as group:
                group.spawn(event.async_wait)

        return _place(wait, event.set)

    def recv(self) -> Place:
        left, right = socket.socketpair()

        def close() -> None:
            left.close()
            right.close()

        return _place(lambda: left.recv(1), right.close, close)

    def await_(self) -> Place:
        event = aevent.Event()
        return _place(lambda: aevent.await_(event.async_wait()), event.set)

    def spawn(self, group: aevent.TaskGroup, program: Callable[[], Any]) -> aevent.CancelScope:
        async def call() -> None:
            run_to_its_end(program())

        return group.spawn(call)


class ThreadApi(SyncApi):
    """The same, in a green thread."""

    def spawn(self, group: aevent.TaskGroup, program: Callable[[], Any]) -> aevent.CancelScope:
        return group.spawn(lambda: run_to_its_end(program()))


def _place(
    wait: Callable[[], object],
    release: Callable[[], object],
    close: Callable[[], object] = lambda: None,
) -> Place:
    async def in_coroutine() -> None:
        wait()

    return Place(in_coroutine, release, close)


def run_to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that awaits nothing but what is done at once."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it has awaited something")


class TrioApi:
    """trio's own, without aevent."""

    def __init__(self) -> None:
        self.trio = trio = pytest.importorskip("trio")
        self.current_effective_deadline = trio.current_effective_deadline
        self.current_time = trio.current_time
        self.CancelScope = trio.CancelScope
        self.fail_at = trio.fail_at
        self.checkpoint = trio.lowlevel.checkpoint
        self.timeout = trio.TooSlowError

    def event(self) -> Place:
        event = self.trio.Event()
        return Place(event.wait, event.set)

    def group(self) -> Place:
        event = self.trio.Event()

        async def wait() -> None:
            async with self.trio.open_nursery() as nursery:
                nursery.start_soon(event.wait)

        return Place(wait, event.set)

    def start(self) -> Place:
        event = self.trio.Event()

        async def service(*, task_status: Any) -> None:
            await event.wait()
            task_status.started()

        async def wait() -> None:
            async with self.trio.open_nursery() as nursery:
                await nursery.start(service)

        return Place(wait, event.set)
