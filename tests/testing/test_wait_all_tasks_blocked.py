"""Who waits until all others are blocked goes on after them, on every backend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from aevent.testing import wait_all_tasks_blocked


def test_everybody_else_goes_first(run: Callable[..., Any]) -> None:
    async def main() -> list[str]:
        steps: list[str] = []
        left, right = socket.socketpair()
        started = aevent.Event()

        def green() -> None:
            steps.append(str(left.recv(1)))
            started.set()
            steps.append("green")

        async def other() -> None:
            await started.async_wait()
            for _ in range(20):
                await aevent.checkpoint()
            steps.append("other")
            await aevent.sleep_forever()

        with left, right:
            async with aevent.TaskGroup() as tg:
                tg.spawn(green)
                tg.spawn(other)
                await wait_all_tasks_blocked()
                assert steps == []
                right.send(b"x")
                await wait_all_tasks_blocked()
                steps.append("main")
                tg.cancel_scope.cancel()
        return steps

    assert run(main) == ["b'x'", "green", "other", "main"]


def test_from_synchronous_code(run: Callable[..., Any]) -> None:
    def main() -> None:
        event = threading.Event()
        steps: list[str] = []
        thread = threading.Thread(target=lambda: (event.wait(), steps.append("thread")))
        thread.start()
        event.set()
        aevent.await_(wait_all_tasks_blocked())
        assert steps == ["thread"]

    run(main)


def test_it_can_be_cancelled(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with aevent.CancelScope() as scope:
            scope.cancel()
            await wait_all_tasks_blocked(10)
        assert scope.cancelled_caught

    run(main)


def test_a_negative_cushion(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="cushion must be"):
            await wait_all_tasks_blocked(-1)

    run(main)
