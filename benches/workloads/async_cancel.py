"""A group of parked tasks that is cancelled, and left. An operation is one of the tasks.

asyncio cancels tasks, the others cancel the group's scope.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from measure import Clocks, Sample, for_about_async

IS_ASYNC = True


async def repeat(
    round_: Callable[[], Awaitable[Clocks]], seconds: float, tasks: int, with_start: bool
) -> Sample:
    """`round_` returns when the cancellation began; with `with_start`, all of it is measured."""

    async def measure(rounds: int) -> Sample:
        wall = cpu = 0
        for _ in range(rounds):
            began = Clocks.read()
            cancelled = await round_()
            end = Clocks.read()
            begin = began if with_start else cancelled
            wall += end.wall_ns - begin.wall_ns
            cpu += end.cpu_ns - begin.cpu_ns
        return Sample(rounds * tasks, wall, cpu)

    return await for_about_async(seconds, measure, first=3)


def cancelling_scope(
    open_group: Callable[[], Any],
    sleep_forever: Callable[[], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
    tasks: int,
) -> Callable[[], Awaitable[Clocks]]:
    """A round of a runtime whose groups have a cancel scope."""

    async def round_() -> Clocks:
        async with open_group() as group:
            for _ in range(tasks):
                group.start_soon(sleep_forever)
            await sleep(0)
            await sleep(0)
            begin = Clocks.read()
            group.cancel_scope.cancel()
        return begin

    return round_


async def main_aevent(*, seconds: float, tasks: int, with_start: bool) -> Sample:
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    round_ = cancelling_scope(aevent.TaskGroup, aevent.sleep_forever, aevent.sleep, tasks)
    return await repeat(round_, seconds, tasks, with_start)


async def main_asyncio(*, seconds: float, tasks: int, with_start: bool) -> Sample:
    import asyncio

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def round_() -> Clocks:
        begin = Clocks.read()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                children = [group.create_task(forever()) for _ in range(tasks)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                begin = Clocks.read()
                for task in children:
                    task.cancel()
        return begin

    return await repeat(round_, seconds, tasks, with_start)


async def main_trio(*, seconds: float, tasks: int, with_start: bool) -> Sample:
    import trio

    round_ = cancelling_scope(trio.open_nursery, trio.sleep_forever, trio.sleep, tasks)
    return await repeat(round_, seconds, tasks, with_start)


async def main_anyio(*, seconds: float, tasks: int, with_start: bool) -> Sample:
    import anyio

    round_ = cancelling_scope(anyio.create_task_group, anyio.sleep_forever, anyio.sleep, tasks)
    return await repeat(round_, seconds, tasks, with_start)
