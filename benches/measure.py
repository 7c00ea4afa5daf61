"""The clocks of the benchmarks, and how long to go on measuring.

A workload measures itself, inside its process and after a warm-up, so that neither the start of the
interpreter nor the import of a runtime is part of any figure.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple


class Clocks(NamedTuple):
    """Wall clock and CPU clock (user and system, all threads of the process) at one moment."""

    wall_ns: int
    cpu_ns: int

    @classmethod
    def read(cls) -> Clocks:
        return cls(time.perf_counter_ns(), time.process_time_ns())


@dataclass(frozen=True)
class Sample:
    """What a number of operations cost together.

    `ideal_wall_ns` is what the workload would take on a machine that does everything else in no
    time, for workloads that know. `rss_bytes` is the growth of resident memory, for those that
    measure it.
    """

    operations: int
    wall_ns: int
    cpu_ns: int
    ideal_wall_ns: int | None = None
    rss_bytes: int | None = None

    @classmethod
    def between(cls, begin: Clocks, end: Clocks, operations: int) -> Sample:
        return cls(operations, end.wall_ns - begin.wall_ns, end.cpu_ns - begin.cpu_ns)

    def per_operation(self) -> dict[str, float]:
        figures = {"wall": self.wall_ns, "cpu": self.cpu_ns}
        if self.ideal_wall_ns is not None:
            figures["ideal wall"] = self.ideal_wall_ns
        if self.rss_bytes is not None:
            figures["rss"] = self.rss_bytes
        return {name: figure / self.operations for name, figure in figures.items()}


def for_about(seconds: float, measure: Callable[[int], Sample], *, first: int) -> Sample:
    """Call `measure(size)` with growing sizes until it takes about `seconds`; return that sample.

    A fixed size would be too short to measure for the fastest runtime or last for ever on the
    slowest. The smaller sizes, starting with `first`, are the warm-up.
    """
    sample = measure(first)
    size = first
    while size := _next_size(size, sample, seconds):
        sample = measure(size)
    return sample


async def for_about_async(
    seconds: float, measure: Callable[[int], Awaitable[Sample]], *, first: int
) -> Sample:
    """`for_about` for a workload of async functions."""
    sample = await measure(first)
    size = first
    while size := _next_size(size, sample, seconds):
        sample = await measure(size)
    return sample


def _next_size(size: int, sample: Sample, seconds: float) -> int:
    """The size to measure after `size`; 0 if a sample of that size was long enough."""
    wanted = seconds * 1e9
    # A sample of half the time is good enough.
    if sample.wall_ns > wanted / 2:
        return 0
    growth = wanted / max(sample.wall_ns, 1)
    return max(size + 1, int(size * min(growth, 50)))
