"""Cancellation reaches a synchronous call wherever it is parked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

import aevent
from tests.backends.blocking_calls import CALLS
from tests.backends.contract import Run, Settle


class Body:
    """Makes a blocking call and notes what becomes of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.log: list[str] = []

    def sync(self) -> None:
        self.log.append("begin")
        try:
            self.call()
            self.log.append("returned")
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        finally:
            self.log.append("finally")

    async def in_async(self) -> None:
        self.sync()


CALL_NAMES = pytest.mark.parametrize("name", list(CALLS))


@CALL_NAMES
@pytest.mark.parametrize("kind", ["green", "async"])
def test_cancelling_a_scope_reaches(run: Run, settle: Settle, name: str, kind: str) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(body.sync if kind == "green" else body.in_async)
            await settle()
            assert body.log == ["begin"], "it does not block"
            scope.cancel()
        assert not group.cancel_scope.cancel_called
        body.log.append("left")

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(main)
        kinds = {"Cancelled", "CancelledError"} if kind == "async" else {"Cancelled"}
        assert body.log[1] in kinds
        assert [body.log[0], *body.log[2:]] == ["begin", "finally", "left"]


@CALL_NAMES
def test_a_deadline_reaches(run: Run, name: str) -> None:
    def main() -> None:
        with aevent.move_on_after(0.003) as scope:
            body.sync()
        assert scope.cancelled_caught
        body.log.append("left")

    def in_thread() -> None:
        # In a thread: main is the main thread, which owns the RLock of the table.
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(in_thread)
        assert body.log == ["begin", "Cancelled", "finally", "left"]


@CALL_NAMES
def test_leaving_the_runner_cancels_a_daemon_in(run: Run, settle_sync: Any, name: str) -> None:
    def main() -> None:
        threading.Thread(target=body.sync, daemon=True).start()
        settle_sync()
        assert body.log == ["begin"]

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(main)
        assert body.log == ["begin", "Cancelled", "finally"]


@CALL_NAMES
@pytest.mark.parametrize("kind", ["green", "async"])
def test_cancellation_by_the_host_reaches(
    run_host: Run, settle: Settle, name: str, kind: str
) -> None:
    async def green() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(body.sync)

    async def in_async() -> None:
        await aevent.per_task()
        body.sync()

    async def main() -> None:
        async with aevent.runner():
            async with anyio.create_task_group() as group:
                group.start_soon(green if kind == "green" else in_async)
                await settle()
                assert body.log == ["begin"], "it does not block"
                group.cancel_scope.cancel()
            body.log.append("left")

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run_host(main)
        kinds = {"Cancelled", "CancelledError"} if kind == "async" else {"Cancelled"}
        assert body.log[1] in kinds
        assert [body.log[0], *body.log[2:]] == ["begin", "finally", "left"]


def test_a_second_wait_of_cancelled_code_raises_again(run: Run, settle: Settle) -> None:
    found: list[str] = []

    def green() -> None:
        left, right = socket.socketpair()
        lock = threading.Lock()
        lock.acquire()
        with left, right:
            calls: list[Callable[[Any], Any]]
            calls = [time.sleep, left.recv, threading.Event().wait, lock.acquire]
            for call in calls:
                try:
                    call(1)
                except aevent.Cancelled:
                    found.append(call.__name__)
        time.sleep(0)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(green)
            await settle()
            scope.cancel()

    run(main)
    assert len(found) == 4


def test_calls_that_need_not_wait_succeed_in_cancelled_code(run: Run) -> None:
    def main() -> None:
        left, right = socket.socketpair()
        event = threading.Event()
        event.set()
        with left, right, aevent.CancelScope() as scope:
            scope.cancel()
            # As a lock that must be taken in a `finally` block: what need not wait is done.
            with threading.Lock():
                assert event.wait()
            time.sleep(0)
        assert scope.cancelled_caught

    run(main)


def test_name_look_ups_are_left_when_cancelled(
    run: Run, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aevent._monkey import socket as patched

    release = threading.Event()

    def slow(*args: Any) -> list[Any]:
        release.wait()
        return []

    monkeypatch.setitem(patched._orig, "getaddrinfo", slow)
    body = Body(lambda: socket.getaddrinfo("aevent.invalid", 80))

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(body.sync)
            await settle()
            assert body.log == ["begin"]
            scope.cancel()

    try:
        run(main)
    finally:
        release.set()
    assert body.log == ["begin", "Cancelled", "finally"]


def test_a_call_that_need_not_wait_never_raises_it(run: Run) -> None:
    log: list[str] = []
    left, right = socket.socketpair()

    def short_calls() -> None:
        lock = threading.Lock()
        for call in (lock.acquire, lock.release, threading.Event().set, lambda: left.send(b"x")):
            # Its time slice is over: it lets others run, if anything does.
            end = time.perf_counter() + 0.03
            while time.perf_counter() < end:
                pass
            call()
            log.append("done")

    async def waits() -> None:
        try:
            time.sleep(3600)
        finally:
            short_calls()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(waits)
            await aevent.sleep(0.001)
            scope.cancel()

    with left, right:
        run(main)
    assert log == ["done"] * 4
