"""The start and the end of a thread through the runtime's own API.

`aevent.TaskGroup().spawn` stands against `gevent.spawn`. A task group knows its children and is
left only when all have ended; gevent is spared a `joinall` and waits in the cheapest way it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from measure import Clocks, Sample, for_about

IS_ASYNC = True
"""On aevent, main is an async function: a task group is an async context manager."""

BATCH = 100
FIRST = 1000


def thread_function(done: list[None], *, blocking: bool) -> Callable[[], None]:
    def run() -> None:
        done.append(None)

    def run_blocking() -> None:
        time.sleep(0)
        done.append(None)

    return run_blocking if blocking else run


async def main_aevent(*, seconds: float, blocking: bool) -> Sample:
    # Only here: a process imports the one runtime it measures.
    import aevent

    async def measure(count: int) -> Sample:
        done: list[None] = []
        run = thread_function(done, blocking=blocking)
        batches = count // BATCH
        begin = Clocks.read()
        for _ in range(batches):
            async with aevent.TaskGroup() as group:
                for _ in range(BATCH):
                    group.spawn(run)
        end = Clocks.read()
        assert len(done) == batches * BATCH
        return Sample.between(begin, end, batches * BATCH)

    warm_up = await measure(FIRST)
    wanted = FIRST * seconds * 1e9 / max(warm_up.wall_ns, 1)
    return await measure(max(FIRST, int(wanted)))


def main_gevent(*, seconds: float, blocking: bool) -> Sample:
    # Only here: a process imports the one runtime it measures.
    import gevent  # type: ignore[import-untyped,import-not-found,unused-ignore]

    def measure(count: int) -> Sample:
        done: list[None] = []
        run = thread_function(done, blocking=blocking)
        batches = count // BATCH
        begin = Clocks.read()
        for batch in range(1, batches + 1):
            for _ in range(BATCH):
                gevent.spawn(run)
            while len(done) < batch * BATCH:
                gevent.sleep(0)
        return Sample.between(begin, Clocks.read(), batches * BATCH)

    return for_about(seconds, measure, first=FIRST)
