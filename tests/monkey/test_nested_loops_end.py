"""How an event loop in a green thread ends: by cancellation, of its host too, and by signals."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest
import trio

import aevent
from tests.monkey.loops import run_in_threads


def test_signals_are_refused_in_green_threads_and_served_in_the_main_task() -> None:
    async def refused() -> None:
        with pytest.raises((RuntimeError, ValueError), match="main thread"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        await asyncio.sleep(0)

    run_in_threads(lambda number: asyncio.run(refused()))

    async def refused_by_trio() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            with trio.open_signal_receiver(signal.SIGUSR1):
                pass

    run_in_threads(lambda number: trio.run(refused_by_trio))

    async def served() -> None:
        came = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        loop.call_later(0.005, os.kill, os.getpid(), signal.SIGUSR1)
        await came.wait()
        loop.remove_signal_handler(signal.SIGUSR1)

    async def served_by_trio() -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            timer = threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            async for number in signals:
                assert number == signal.SIGUSR1
                break

    asyncio.run(served())
    trio.run(served_by_trio)


def test_a_cancelled_thread_ends_its_asyncio_loop() -> None:
    events: list[str] = []

    async def main() -> None:
        try:
            events.append("waits")
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.001)
            events.append("cleaned up")

    def program() -> None:
        try:
            asyncio.run(main())
        finally:
            events.append("over")

    async def start() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(program)
            while "waits" not in events:
                await aevent.sleep(0.001)
            scope.cancel()

    aevent.await_(start())
    assert events == ["waits", "cancelled", "cleaned up", "over"]


def test_a_loop_that_a_cancellation_has_ended_may_be_used_again() -> None:
    loop = asyncio.new_event_loop()
    for _ in range(2):
        with aevent.move_on_after(0.001) as scope:
            loop.run_until_complete(asyncio.sleep(3600))
        assert scope.cancelled_caught
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()


def test_a_cancelled_thread_ends_its_trio_run() -> None:
    events: list[str] = []

    async def main() -> None:
        async with trio.open_nursery():
            await wait()

    async def wait() -> None:
        try:
            events.append("waits")
            await trio.sleep(3600)
        except trio.Cancelled:
            events.append("cancelled")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.001)
                events.append("cleaned up")

    def program() -> None:
        try:
            trio.run(main)
        finally:
            events.append("over")

    async def start() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(program)
            while "waits" not in events:
                await aevent.sleep(0.001)
            scope.cancel()

    aevent.await_(start())
    assert events == ["waits", "cancelled", "cleaned up", "over"]


@pytest.mark.parametrize("by", ["aevent", "host"])
@pytest.mark.parametrize("nested", ["asyncio", "trio"])
def test_a_cancelled_host_task_ends_the_loop_that_it_runs(
    nested: str, by: str, fresh_ok: Any, backend: str
) -> None:
    if nested == backend:
        return  # asyncio and trio refuse to run in their own tasks
    script = """
import sys
import aevent
backend, nested, by = sys.argv[1:]
aevent.setup(backend)
import asyncio, time, trio
from functools import partial

events = []

async def in_asyncio():
    try:
        cancel_soon()
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.001)
        events.append("cleaned up")

async def in_trio():
    async with trio.open_nursery():
        try:
            cancel_soon()
            await trio.sleep(3600)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.001)
            events.append("cleaned up")

def program():
    asyncio.run(in_asyncio()) if nested == "asyncio" else trio.run(in_trio)

async def main():
    global cancel_soon
    if by == "aevent" or backend == "native":
        with aevent.CancelScope() as scope:
            def cancel_soon():
                scope.deadline = aevent.current_time() + 0.001
            program()
        assert scope.cancelled_caught
    elif backend == "trio":
        with trio.CancelScope() as scope:
            def cancel_soon():
                scope.deadline = trio.current_time() + 0.001
            program()
        assert scope.cancelled_caught
    else:
        cancel_soon = partial(
            asyncio.get_running_loop().call_later, 0.001, asyncio.current_task().cancel
        )
        try:
            program()
        except asyncio.CancelledError:
            events.append("cancelled")
        assert events.pop() == "cancelled"
    assert events == ["cleaned up"]
    await aevent.sleep(0.001)

aevent.run(main)
"""
    assert fresh_ok(script, backend, nested, by) == ""
