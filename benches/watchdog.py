"""What `setup(warn_blocking=0.1)` costs: the same work with and without, by turns, in CPU time.

python benches/watchdog.py [--turns N] [backend …]

Prints for each kind of task the median over all turns, and in brackets the half of the turns that
is in the middle: the machine's noise. A turn is short, and with and without come in an order that
favours none, so what else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import aevent

aevent.setup("native")

from aevent import _watchdog

KINDS = ("green threads", "async tasks")
TASKS = 50
#: Seconds of CPU time that each part of a turn takes about: some looks of the watchdog's.
PART = 0.15


def green(count: int) -> None:
    for _ in range(count):
        time.sleep(0)


async def coroutine(count: int) -> None:
    for _ in range(count):
        await aevent.sleep(0)


async def work(kind: str, count: int) -> float:
    """Tasks that switch; the CPU time of the whole process."""
    began = time.process_time()
    async with aevent.TaskGroup() as group:
        for _ in range(TASKS):
            group.spawn(green if kind == "green threads" else coroutine, count)
    return time.process_time() - began


async def compare(backend: str, turns: int) -> None:
    for kind in KINDS:
        count = 100
        while (used := await work(kind, count)) < PART / 2:
            count *= 2
        count = max(1, int(count * PART / used))
        # Not watched, watched, not watched again: what the first and the last differ by is noise.
        order = [None, 0.1, 0.0]
        used_by: dict[float | None, list[float]] = {each: [] for each in order}
        for _ in range(turns):
            for threshold in order:
                _watchdog.set_threshold(threshold or None)
                used_by[threshold].append(await work(kind, count))
            # Whoever comes later pays for what the others have left behind.
            order.append(order.pop(0))
        _watchdog.set_threshold(None)
        # The lower quartile: what else the machine does only ever adds to it.
        plain, watched, again = (
            statistics.quantiles(used_by[each], n=4)[0] for each in (None, 0.1, 0.0)
        )
        cost, noise = (100 * (each / plain - 1) for each in (watched, again))
        print(f"{backend}, {kind}: {cost:+.2f} % (noise {noise:+.2f} %)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("backends", nargs="*", metavar="backend")
    options = parser.parse_args()
    for backend in options.backends or ["native", "asyncio", "trio"]:
        aevent.run(compare, backend, options.turns, backend=backend)
