"""The memory of tasks that wait, each for an event of its own. An operation is one task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from measure import Clocks, Sample

from workloads.parked_threads import resident_bytes

IS_ASYNC = True


begun = 0
"""How many tasks wait, or are about to."""


class Event(Protocol):
    def set(self) -> object: ...


async def main(
    start: Callable[[Callable[[Any], Coroutine[Any, Any, None]], Any], object],
    new_event: Callable[[], Event],
    wait: Callable[[Any], Coroutine[Any, Any, None]],
    sleep: Callable[[float], Awaitable[object]],
    tasks: int,
) -> Sample:
    events: list[Event] = []

    async def park(count: int) -> None:
        for _ in range(count):
            event = new_event()
            events.append(event)
            start(wait, event)
        while begun < len(events):
            await sleep(0)
        await sleep(0)  # the last has begun, and may have to get to its wait

    await park(tasks // 100)  # the warm-up: what the first tasks need once is not counted
    before = resident_bytes()
    begin = Clocks.read()
    await park(tasks)
    end = Clocks.read()
    growth = resident_bytes() - before
    for event in events:
        event.set()
    return replace(Sample.between(begin, end, tasks), rss_bytes=growth)


async def main_aevent(*, seconds: float, tasks: int) -> Sample:
    """`seconds` is not used, as in the others: it takes as long as starting the tasks takes."""
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    async def wait(event: aevent.Event) -> None:
        global begun
        begun += 1
        await event.async_wait()

    async with aevent.TaskGroup() as group:
        return await main(group.start_soon, aevent.Event, wait, aevent.sleep, tasks)


async def main_asyncio(*, seconds: float, tasks: int) -> Sample:
    import asyncio

    async def wait(event: asyncio.Event) -> None:
        global begun
        begun += 1
        await event.wait()

    async with asyncio.TaskGroup() as group:

        def start(
            fn: Callable[[asyncio.Event], Coroutine[Any, Any, None]], event: asyncio.Event
        ) -> None:
            group.create_task(fn(event))

        return await main(start, asyncio.Event, wait, asyncio.sleep, tasks)


async def main_trio(*, seconds: float, tasks: int) -> Sample:
    import trio

    async def wait(event: trio.Event) -> None:
        global begun
        begun += 1
        await event.wait()

    async with trio.open_nursery() as nursery:
        return await main(nursery.start_soon, trio.Event, wait, trio.sleep, tasks)
