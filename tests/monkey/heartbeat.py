"""A task that goes on ticking: how tests see that the loop was not blocked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: How many ticks a wait has to leave room for.
TICKS = 5


class Heartbeat:
    """Counts while it is entered."""

    def __init__(self) -> None:
        self.ticks = 0
        self._over = False
        self._waiting: list[tuple[int, Callable[[], object]]] = []

    def _beat(self) -> None:
        while not self._over:
            time.sleep(0.001)
            self.ticks += 1
            for due, fn in [item for item in self._waiting if item[0] <= self.ticks]:
                self._waiting.remove((due, fn))
                fn()

    def after_ticks(self, fn: Callable[[], object], ticks: int = TICKS) -> None:
        """Calls `fn` when the heart has beaten that often from now on: who waits for what it does
        has not blocked the loop."""
        self._waiting.append((self.ticks + ticks, fn))


@contextmanager
def heartbeat() -> Iterator[Heartbeat]:
    heart = Heartbeat()
    thread = threading.Thread(target=heart._beat)
    thread.start()
    try:
        yield heart
    finally:
        heart._over = True
        thread.join()
