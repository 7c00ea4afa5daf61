"""Threads of a test, started and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from aevent import _core


def start(*functions: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the others are where the test wants them."""
    for _ in range(10_000):
        if condition():
            return
        if _core.in_task():
            _core.checkpoint()
        else:
            threading.Event().wait(0.0005)  # nothing tells a real thread that others wait
    raise AssertionError("it did not come about")
