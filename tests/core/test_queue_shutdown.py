"""`queue.Queue.shutdown`, from Python 3.13 on."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

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
