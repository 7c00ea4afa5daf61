"""Thread pools of 32 with trivial work. An operation is one item of a map."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

from measure import Clocks, Sample, for_about

WORKERS = 32


def main(*, seconds: float, kind: str) -> Sample:
    measure = {"executor": executor, "multiprocessing": multiprocessing_pool}[kind]
    return for_about(seconds, measure, first=200)


def work(number: int) -> int:
    return number + 1


def executor(items: int) -> Sample:
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))  # starts the workers
        begin = Clocks.read()
        results = list(pool.map(work, range(items)))
        sample = Sample.between(begin, Clocks.read(), items)
    assert results[-1] == items
    return sample


def multiprocessing_pool(items: int) -> Sample:
    with ThreadPool(WORKERS) as pool:
        pool.map(work, range(WORKERS), chunksize=1)
        begin = Clocks.read()
        results = pool.map(work, range(items), chunksize=1)
        sample = Sample.between(begin, Clocks.read(), items)
    assert results[-1] == items
    return sample
