"""uvloop in a green thread: it waits in C, so a real thread runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat
from tests.monkey.loops import run_in_threads


def test_uvloop_waits_in_a_real_thread() -> None:
    uvloop = pytest.importorskip("uvloop")
    here = threading.get_native_id()

    async def main() -> int:
        # If it stopped the others, this would never end.
        until = heart.ticks + 3
        while heart.ticks < until:
            await asyncio.sleep(0.001)
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        return threading.get_native_id()

    def program(number: int) -> int:
        loop = uvloop.new_event_loop()
        try:
            return int(loop.run_until_complete(main()))
        finally:
            loop.close()

    with heartbeat() as heart:
        assert here not in run_in_threads(program)


def test_uvloop_ends_with_its_cancelled_thread_and_cleans_up() -> None:
    uvloop = pytest.importorskip("uvloop")
    log: list[str] = []

    async def main() -> None:
        try:
            scope.cancel()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    def program() -> None:
        nonlocal scope
        with aevent.CancelScope() as scope:
            loop = uvloop.new_event_loop()
            task = loop.create_task(main())
            try:
                loop.run_until_complete(task)
            finally:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    loop.run_until_complete(task)
                loop.close()
        assert scope.cancelled_caught

    scope = aevent.CancelScope()
    run_in_threads(lambda number: program(), 1)
    assert log == ["cleaned up"]


def test_uvloop_does_not_begin_in_a_cancelled_thread() -> None:
    uvloop = pytest.importorskip("uvloop")
    with aevent.CancelScope() as scope:
        scope.cancel()
        loop = uvloop.new_event_loop()
        try:
            loop.run_forever()
        finally:
            assert not loop.is_running()
            loop.close()
    assert scope.cancelled_caught


def test_what_a_signal_handler_raises_ends_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    def stop(*_: object) -> None:
        raise LookupError("from the handler")

    former = signal.signal(signal.SIGUSR1, stop)
    loop = uvloop.new_event_loop()
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    with pytest.raises(LookupError, match="from the handler"):
        loop.run_forever()
    assert not loop.is_running()
    loop.close()
    signal.signal(signal.SIGUSR1, former)
