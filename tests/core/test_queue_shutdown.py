"""`queue.Queue.shutdown`, from Python 3.13 on."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.core.threads import start, wait_for

needs_shutdown = pytest.mark.skipif(
    not hasattr(queue, "ShutDown"), reason="Queue.shutdown() came with Python 3.13"
)


@needs_shutdown
def test_a_shut_down_queue_refuses_items_and_hands_out_what_is_left(anywhere: Any) -> None:
    def main() -> None:
        items: Any = queue.Queue()
        items.put(1)
        items.shutdown()
        with pytest.raises(queue.ShutDown):  # type: ignore[attr-defined]
            items.put(2)
        assert items.get() == 1
        for call in (items.get, items.get_nowait):
            with pytest.raises(queue.ShutDown):  # type: ignore[attr-defined]
                call()

    anywhere(main)


@needs_shutdown
def test_shutting_down_ends_the_waits(anywhere: Any) -> None:
    def main() -> None:
        empty: Any = queue.Queue()
        full: Any = queue.Queue(1)
        full.put(0)
        ended: list[str] = []

        def expect(name: str, call: Callable[[], Any]) -> None:
            with pytest.raises(queue.ShutDown):  # type: ignore[attr-defined]
                call()
            ended.append(name)

        threads = start(
            lambda: expect("get", empty.get),
            lambda: expect("put", lambda: full.put(1, timeout=30)),
        )
        wait_for(lambda: empty.not_empty._waiting() == 1 and full.not_full._waiting() == 1)
        empty.shutdown()
        full.shutdown(immediate=True)
        for thread in threads:
            thread.join()
        assert sorted(ended) == ["get", "put"]

    anywhere(main)


@needs_shutdown
def test_async_code_is_told_of_a_shutdown_as_others_are() -> None:
    async def main() -> None:
        empty: Any = queue.Queue()
        full: Any = queue.Queue(1)
        full.put(0)
        ended: list[str] = []

        async def expect(name: str, call: Callable[..., Any], *args: object) -> None:
            with pytest.raises(queue.ShutDown):  # type: ignore[attr-defined]
                await call(*args)
            ended.append(name)

        async with aevent.TaskGroup() as tg:
            tg.spawn(expect, "get", empty.async_get)
            tg.spawn(expect, "put", full.async_put, 1)
            while not (empty.not_empty._waiting() and full.not_full._waiting()):
                await aevent.sleep(0)
            empty.shutdown()
            full.shutdown()
        assert sorted(ended) == ["get", "put"]
        assert await full.async_get() == 0
        await expect("late get", full.async_get)
        await expect("late put", empty.async_put, 1)

    aevent.run(main)
