"""Many tasks that sleep at random, as clients of a busy program do. An operation is one sleep."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from measure import Clocks, Sample

IS_ASYNC = True

SHORTEST, LONGEST = 0.001, 0.050

Run = Callable[[list[float]], Coroutine[Any, Any, None]]


async def main(
    sleep: Callable[[float], Awaitable[object]],
    run_all: Callable[[Run, list[list[float]]], Awaitable[None]],
    *,
    tasks: int,
    sleeps: int,
) -> Sample:
    async def measure(tasks: int, sleeps: int) -> Sample:
        generator = random.Random(20)
        naps = [[generator.uniform(SHORTEST, LONGEST) for _ in range(sleeps)] for _ in range(tasks)]
        awake = 0
        begin = Clocks(0, 0)

        async def run(mine: list[float]) -> None:
            nonlocal awake, begin
            # Until the last has begun: starting them is measured elsewhere.
            awake += 1
            if awake == tasks:
                begin = Clocks.read()
            while awake < tasks:
                await sleep(0.01)
            for nap in mine:
                await sleep(nap)

        await run_all(run, naps)
        sample = Sample.between(begin, Clocks.read(), tasks * sleeps)
        return replace(sample, ideal_wall_ns=int(max(sum(mine) for mine in naps) * 1e9))

    await measure(max(1, tasks // 100), 1)  # the warm-up
    return await measure(tasks, sleeps)


async def main_aevent(*, seconds: float, tasks: int, sleeps: int) -> Sample:
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    async def run_all(run: Run, naps: list[list[float]]) -> None:
        async with aevent.TaskGroup() as group:
            for mine in naps:
                group.start_soon(run, mine)

    return await main(aevent.sleep, run_all, tasks=tasks, sleeps=sleeps)


async def main_asyncio(*, seconds: float, tasks: int, sleeps: int) -> Sample:
    import asyncio

    async def run_all(run: Run, naps: list[list[float]]) -> None:
        await asyncio.gather(*(run(mine) for mine in naps))

    return await main(asyncio.sleep, run_all, tasks=tasks, sleeps=sleeps)


async def main_trio(*, seconds: float, tasks: int, sleeps: int) -> Sample:
    import trio

    async def run_all(run: Run, naps: list[list[float]]) -> None:
        async with trio.open_nursery() as nursery:
            for mine in naps:
                nursery.start_soon(run, mine)

    return await main(trio.sleep, run_all, tasks=tasks, sleeps=sleeps)


async def main_anyio(*, seconds: float, tasks: int, sleeps: int) -> Sample:
    import anyio

    async def run_all(run: Run, naps: list[list[float]]) -> None:
        async with anyio.create_task_group() as group:
            for mine in naps:
                group.start_soon(run, mine)

    return await main(anyio.sleep, run_all, tasks=tasks, sleeps=sleeps)
