"""Many threads that sleep at random, as clients of a busy program do. An operation is one sleep."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

from measure import Clocks, Sample

SHORTEST, LONGEST = 0.001, 0.050


def main(*, seconds: float, threads: int, sleeps: int) -> Sample:
    """`seconds` is not used: the sleeps say how long this takes."""
    measure(max(1, threads // 100), 1)  # the warm-up
    return measure(threads, sleeps)


def measure(threads: int, sleeps: int) -> Sample:
    generator = random.Random(20)
    naps = [[generator.uniform(SHORTEST, LONGEST) for _ in range(sleeps)] for _ in range(threads)]
    arrived: list[None] = []
    gate, all_arrived = threading.Event(), threading.Event()

    def run(mine: list[float]) -> None:
        arrived.append(None)
        if len(arrived) == threads:
            all_arrived.set()
        gate.wait()
        for nap in mine:
            time.sleep(nap)

    workers = [threading.Thread(target=run, args=(mine,)) for mine in naps]
    for worker in workers:
        worker.start()
    all_arrived.wait()
    time.sleep(0.01)  # the last to arrive has yet to reach the gate
    begin = Clocks.read()
    gate.set()
    for worker in workers:
        worker.join()
    sample = Sample.between(begin, Clocks.read(), threads * sleeps)
    return replace(sample, ideal_wall_ns=int(max(sum(mine) for mine in naps) * 1e9))
