"""Green threads of a test, and when they go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
