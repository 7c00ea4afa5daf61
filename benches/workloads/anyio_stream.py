"""One of anyio's memory object streams between two tasks. An operation is one item."""

from __future__ import annotations

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from measure import Clocks, Sample, for_about_async

IS_ASYNC = True


async def main_anyio(*, seconds: float) -> Sample:
    async def measure(items: int) -> Sample:
        send: MemoryObjectSendStream[int]
        receive: MemoryObjectReceiveStream[int]
        send, receive = anyio.create_memory_object_stream(0)

        async def produce() -> None:
            async with send:
                for item in range(items):
                    await send.send(item)

        begin = Clocks.read()
        received = 0
        async with anyio.create_task_group() as group, receive:
            group.start_soon(produce)
            async for _ in receive:
                received += 1
        assert received == items
        return Sample.between(begin, Clocks.read(), items)

    return await for_about_async(seconds, measure, first=300)
