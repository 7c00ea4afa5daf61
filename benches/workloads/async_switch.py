"""Tasks that do nothing but let each other run: `sleep(0)`. An operation is one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from measure import Clocks, Sample, for_about_async

IS_ASYNC = True


async def main(
    sleep: Callable[[float], Awaitable[object]],
    run_all: Callable[[int, Callable[[], Coroutine[Any, Any, None]]], Awaitable[None]],
    *,
    seconds: float,
    tasks: int,
) -> Sample:
    async def measure(yields: int) -> Sample:
        awake = ended = 0
        begin = end = Clocks(0, 0)

        async def run() -> None:
            nonlocal awake, begin, ended, end
            # Until the last has begun, so that every yield is one among so many tasks.
            awake += 1
            while awake < tasks:
                await sleep(0)
            if not begin.wall_ns:
                begin = Clocks.read()
            for _ in range(yields):
                await sleep(0)
            ended += 1
            if ended == tasks:
                end = Clocks.read()
            while ended < tasks:
                await sleep(0)

        await run_all(tasks, run)
        return Sample.between(begin, end, tasks * yields)

    return await for_about_async(seconds, measure, first=200)


async def main_aevent(*, seconds: float, tasks: int) -> Sample:
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    async def run_all(count: int, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with aevent.TaskGroup() as group:
            for _ in range(count):
                group.start_soon(run)

    return await main(aevent.sleep, run_all, seconds=seconds, tasks=tasks)


async def main_asyncio(*, seconds: float, tasks: int) -> Sample:
    import asyncio

    async def run_all(count: int, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*(run() for _ in range(count)))

    return await main(asyncio.sleep, run_all, seconds=seconds, tasks=tasks)


async def main_trio(*, seconds: float, tasks: int) -> Sample:
    import trio

    async def run_all(count: int, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(run)

    return await main(trio.sleep, run_all, seconds=seconds, tasks=tasks)


async def main_anyio(*, seconds: float, tasks: int) -> Sample:
    import anyio

    async def run_all(count: int, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(run)

    return await main(anyio.sleep, run_all, seconds=seconds, tasks=tasks)
