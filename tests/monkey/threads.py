"""Green threads of a test, and when they go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aevent
import aevent.testing


def started(fn: Callable[..., object], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    return thread


def later(fn: Callable[..., object], *args: Any) -> None:
    """Calls it when all tasks wait for something, the caller too."""

    def when_all_wait() -> None:
        let_others_wait()
        fn(*args)

    started(when_all_wait)


def let_others_wait() -> None:
    """Lets the others go on until all of them wait for something."""
    aevent.await_(aevent.testing.wait_all_tasks_blocked())


@contextmanager
def taking_turns() -> Iterator[Callable[[], int]]:
    """Another green thread that is always ready; tells how many turns it has had."""
    turns = 0
    over = False

    def take_turns() -> None:
        nonlocal turns
        while not over:
            turns += 1
            time.sleep(0)

    thread = started(take_turns)
    try:
        yield lambda: turns
    finally:
        over = True
        thread.join()
