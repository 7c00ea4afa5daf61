"""What `setup(warn_blocking=0.1)` costs: the same work with and without, by turns, in CPU time.

python benches/watchdog.py [--turns N] [backend …]

Prints for each kind of task how much more the lower quartile of the watched turns is, and in
brackets how much that of other unwatched ones differs: the machine's noise. A turn is short, and
they come in random order, so what else the machine does meets all alike.

The process has another OS thread all the time, which does nothing. Whoever starts the first one, be
it the watchdog, makes the C library lock its allocator from then on; what that costs is printed
last.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time

import aevent

aevent.setup("native")

from aevent import _watchdog
from aevent._monkey import originals

KINDS = ("green threads", "async tasks")
TASKS = 50
#: Seconds of CPU time that each part of a turn takes about: some looks of the watchdog's.
PART = 0.25


def start_idle_thread() -> None:
    lock = originals.saved["_thread"]["allocate_lock"]()
    lock.acquire()
    originals.saved["_thread"]["start_new_thread"](lock.acquire, ())


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


async def used_by_each(kind: str, count: int, turns: int) -> dict[float | None, list[float]]:
    """The CPU times of all turns: not watched, watched, not watched again."""
    order = [None, 0.1, 0.0]
    used: dict[float | None, list[float]] = {each: [] for each in order}
    for _ in range(turns):
        random.shuffle(order)
        for threshold in order:
            _watchdog.set_threshold(threshold or None)
            # Its thread begins or ends, which is not what a program pays for being watched.
            await aevent.sleep(0.05)
            used[threshold].append(await work(kind, count))
    _watchdog.set_threshold(None)
    return used


async def compare(backend: str, turns: int) -> None:
    for kind in KINDS:
        count = 100
        while (used := await work(kind, count)) < PART / 2:
            count *= 2
        count = max(1, int(count * PART / used))
        used_by = await used_by_each(kind, count, turns)
        # The lower quartile: what else the machine does only ever adds to it.
        plain, watched, again = (
            statistics.quantiles(used_by[each], n=4)[0] for each in (None, 0.1, 0.0)
        )
        cost, noise = (100 * (each / plain - 1) for each in (watched, again))
        print(f"{backend}, {kind}: {cost:+.2f} % (noise {noise:+.2f} %)", flush=True)


async def alone(count: int) -> float:
    """The least of some turns."""
    return min([await work(KINDS[0], count) for _ in range(8)])


def of_the_first_thread(rounds: int) -> None:
    """What the mere existence of another OS thread costs: fresh processes, by turns."""
    used: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(rounds):
        for each, times in used.items():
            command = [sys.executable, __file__, "--green-threads", each]
            times.append(float(subprocess.check_output(command)))
    plain, beside = (statistics.median(used[each]) for each in ("alone", "beside"))
    print(f"native, {KINDS[0]}, beside an idle OS thread: {100 * (beside / plain - 1):+.2f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--green-threads", choices=("alone", "beside"), help=argparse.SUPPRESS)
    parser.add_argument("backends", nargs="*", metavar="backend")
    options = parser.parse_args()
    if options.green_threads != "alone":
        start_idle_thread()
    if options.green_threads:
        print(aevent.run(alone, 10_000))
    else:
        for backend in options.backends or ["native", "asyncio", "trio"]:
            aevent.run(compare, backend, options.turns, backend=backend)
        of_the_first_thread(7)
