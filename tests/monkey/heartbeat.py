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
        self._begun = self._over = False
        self._waiting: list[tuple[int, Callable[[], object]]] = []

    def _beat(self) -> None:
        self._begun = True
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
    # Its timer runs before those of the body: who waits for one of these has let it tick.
    while not heart._begun:
        time.sleep(0)
    try:
        yield heart
    finally:
        heart._over = True
        thread.join()


def others_go_on(fn: Callable[[], object], at_least: int = 1) -> None:
    """Calls it, and fails if it keeps the others from running.

    For what takes its time outside of the loop. The machine may stand still meanwhile, so that they
    had no time either: not each time.
    """
    for _ in range(20):
        with heartbeat() as heart:
            fn()
            ticks = heart.ticks
        if ticks >= at_least:
            return
    raise AssertionError(f"the others had {ticks} turns of {at_least}")
