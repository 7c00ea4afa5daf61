"""Threads that do nothing but let each other run: `time.sleep(0)`."""

from __future__ import annotations

import threading
import time

from measure import Clocks, Sample, for_about


def main(*, seconds: float, threads: int) -> Sample:
    return for_about(seconds, lambda yields: measure(threads, yields), first=50)


def measure(threads: int, yields: int) -> Sample:
    arrived: list[None] = []
    awake: list[None] = []
    gate = threading.Event()
    finished = threading.Event()
    begin: list[Clocks] = []
    end: list[Clocks] = []

    def run() -> None:
        sleep = time.sleep
        # Everyone waits until the last has arrived, so the start of threads is not measured; and
        # then until all are awake, so that every yield is one among so many threads.
        arrived.append(None)
        if len(arrived) == threads:
            gate.set()
        gate.wait()
        awake.append(None)
        while len(awake) < threads:
            sleep(0)
        if not begin:
            begin.append(Clocks.read())
        for _ in range(yields):
            sleep(0)
        end.append(Clocks.read())
        # Nobody ends before everybody has yielded for the last time: what the end of a thread costs
        # is measured elsewhere, and would here be divided among its few yields.
        if len(end) == threads:
            finished.set()
        finished.wait()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Sample.between(begin[0], end[-1], threads * yields)
