"""The start and the end of a thread, through `_thread` and through `threading.Thread`."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable

from measure import Clocks, Sample, for_about

BATCH = 100
"""How many threads are alive at once, where they are not started one at a time."""


def main(*, seconds: float, kind: str) -> Sample:
    measure = {
        "bare": bare,
        "bare blocking": bare_blocking,
        "joined": joined,
        "joined batch": joined_batch,
    }[kind]
    return for_about(seconds, measure, first=BATCH)


def bare(count: int) -> Sample:
    """Threads that never block."""
    done: list[None] = []

    def run() -> None:
        done.append(None)

    return start_batches(run, done, count)


def bare_blocking(count: int) -> Sample:
    """Threads that block once."""
    done: list[None] = []

    def run() -> None:
        time.sleep(0)
        done.append(None)

    return start_batches(run, done, count)


def start_batches(run: Callable[[], None], done: list[None], count: int) -> Sample:
    start_new_thread = _thread.start_new_thread
    batches = max(1, count // BATCH)
    begin = Clocks.read()
    for batch in range(1, batches + 1):
        for _ in range(BATCH):
            start_new_thread(run, ())
        # Yielding is the cheapest way to wait that every runtime has.
        while len(done) < batch * BATCH:
            time.sleep(0)
    return Sample.between(begin, Clocks.read(), batches * BATCH)


def nothing() -> None:
    pass


def joined(count: int) -> Sample:
    """One thread at a time."""
    begin = Clocks.read()
    for _ in range(count):
        thread = threading.Thread(target=nothing)
        thread.start()
        thread.join()
    return Sample.between(begin, Clocks.read(), count)


def joined_batch(count: int) -> Sample:
    """All threads of a batch are started before the first is joined."""
    batches = max(1, count // BATCH)
    begin = Clocks.read()
    for _ in range(batches):
        threads = [threading.Thread(target=nothing) for _ in range(BATCH)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return Sample.between(begin, Clocks.read(), batches * BATCH)
