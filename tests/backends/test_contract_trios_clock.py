"""Under `trio.testing.MockClock` the time of green threads is trio's."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import aevent
import aevent.testing

HOUR = 3600.0


def run(main: Callable[[], Any], **options: Any) -> Any:
    async def in_runner() -> Any:
        async with aevent.runner():
            await aevent.per_task()
            return await main()

    return trio.run(in_runner, clock=trio.testing.MockClock(**options))


def test_hours_pass_at_once() -> None:
    order = []

    def green(hours: float) -> None:
        time.sleep(hours * HOUR)
        order.append((hours, round(aevent.current_time() - began)))

    async def task(hours: float) -> None:
        await trio.sleep(hours * HOUR)
        order.append((hours, round(aevent.current_time() - began)))

    async def with_portal(hours: float) -> None:
        await aevent.per_task()
        time.sleep(hours * HOUR)
        order.append((hours, round(aevent.current_time() - began)))

    async def main() -> None:
        nonlocal began
        began = aevent.current_time()
        async with aevent.TaskGroup() as group, trio.open_nursery() as nursery:
            for hours in (3, 1):
                group.spawn(green, hours)
            nursery.start_soon(task, 2)
            nursery.start_soon(with_portal, 4)
            nursery.start_soon(with_portal, 0.5)

    began = 0.0
    real = time.monotonic()
    run(main, autojump_threshold=0)
    assert order == [(hours, hours * HOUR) for hours in (0.5, 1, 2, 3, 4)]
    assert time.monotonic() - real < 100


def test_timeouts_and_deadlines_in_green_threads() -> None:
    def wait() -> None:
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=1)
        assert not threading.Event().wait(2)
        left, right = socket.socketpair()
        with left, right:
            left.settimeout(4)
            with pytest.raises(TimeoutError):
                left.recv(1)
        with aevent.move_on_after(8) as scope:
            time.sleep(HOUR)
        assert scope.cancelled_caught
        aevent.await_(trio.sleep(16))

    async def main() -> float:
        began = trio.current_time()
        async with aevent.TaskGroup() as group:
            group.spawn(wait)
        return trio.current_time() - began

    assert run(main, autojump_threshold=0) == pytest.approx(31, abs=0.001)


def test_time_stands_still_until_it_jumps() -> None:
    woken = []

    def green() -> None:
        time.sleep(10)
        woken.append(1)

    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        async with aevent.TaskGroup() as group:
            group.spawn(green)
            await aevent.testing.wait_all_tasks_blocked()
            clock.jump(9)
            await aevent.testing.wait_all_tasks_blocked(0.01)
            assert not woken
            clock.jump(1)
        assert woken

    run(main)


def test_a_fast_clock() -> None:
    async def main() -> float:
        began = aevent.current_time()
        async with aevent.TaskGroup() as group:
            group.spawn(time.sleep, HOUR)
        return aevent.current_time() - began

    assert HOUR <= run(main, rate=360_000) < 1000 * HOUR
