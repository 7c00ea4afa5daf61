"""Tasks that are started in a group and have nothing to do. An operation is one, joined.

A group has a hundred of them, so its own costs are a hundredth part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from measure import Clocks, Sample, for_about_async

IS_ASYNC = True

BATCH = 100


async def child() -> None:
    pass


async def repeat(batch: Callable[[], Awaitable[None]], seconds: float) -> Sample:
    async def measure(batches: int) -> Sample:
        begin = Clocks.read()
        for _ in range(batches):
            await batch()
        return Sample.between(begin, Clocks.read(), batches * BATCH)

    return await for_about_async(seconds, measure, first=20)


async def main_aevent(*, seconds: float) -> Sample:
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    async def batch() -> None:
        async with aevent.TaskGroup() as group:
            for _ in range(BATCH):
                group.start_soon(child)

    return await repeat(batch, seconds)


async def main_asyncio(*, seconds: float) -> Sample:
    import asyncio

    async def batch() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(BATCH):
                group.create_task(child())

    return await repeat(batch, seconds)


async def main_trio(*, seconds: float) -> Sample:
    import trio

    async def batch() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(BATCH):
                nursery.start_soon(child)

    return await repeat(batch, seconds)


async def main_anyio(*, seconds: float) -> Sample:
    import anyio

    async def batch() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(BATCH):
                group.start_soon(child)

    return await repeat(batch, seconds)
