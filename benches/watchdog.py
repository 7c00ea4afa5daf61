"""What `setup(warn_blocking=0.1)` costs: the same work with and without, by turns, in CPU time.

python benches/watchdog.py [backend …]
"""

from __future__ import annotations

import statistics
import sys
import time

import aevent

aevent.setup("native")

from aevent import _watchdog

KINDS = ("green threads", "async tasks")
TURNS = 10
#: Seconds of CPU time that one turn takes at least.
TURN = 0.3


def green(count: int) -> None:
    for _ in range(count):
        time.sleep(0)


async def coroutine(count: int) -> None:
    for _ in range(count):
        await aevent.sleep(0)


async def work(kind: str, count: int) -> float:
    """Fifty tasks that switch; the CPU time of the whole process."""
    began = time.process_time()
    async with aevent.TaskGroup() as group:
        for _ in range(50):
            group.spawn(green if kind == "green threads" else coroutine, count)
    return time.process_time() - began


async def compare(backend: str) -> None:
    for kind in KINDS:
        ratios = []
        count = 100
        while await work(kind, count) < TURN:
            count *= 2
        for _ in range(TURNS):
            used = {}
            # In an order that favours none.
            for threshold in (None, 0.1, 0.1, None):
                _watchdog.set_threshold(threshold)
                used[threshold] = used.get(threshold, 0.0) + await work(kind, count)
            ratios.append(used[0.1] / used[None])
        _watchdog.set_threshold(None)
        print(f"{backend}, {kind}: {100 * (statistics.median(ratios) - 1):+.2f} %", flush=True)


if __name__ == "__main__":
    for backend in sys.argv[1:] or ["native", "asyncio", "trio"]:
        aevent.run(compare, backend, backend=backend)
