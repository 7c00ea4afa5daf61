"""The memory of threads that wait, each for an event of its own. An operation is one thread."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

from measure import Clocks, Sample


def main(*, seconds: float, threads: int) -> Sample:
    """`seconds` is not used: it takes as long as starting the threads takes."""
    park(threads // 100)  # the warm-up: what the first threads need once is not counted
    before = resident_bytes()
    begin = Clocks.read()
    parked = park(threads)
    end = Clocks.read()
    growth = resident_bytes() - before
    assert len(parked) == threads
    return replace(Sample.between(begin, end, threads), rss_bytes=growth)


def park(threads: int) -> list[tuple[threading.Thread, threading.Event]]:
    parked = []
    for _ in range(threads):
        event = threading.Event()
        thread = threading.Thread(target=event.wait, daemon=True)
        thread.start()
        parked.append((thread, event))
    return parked


def resident_bytes() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
