"""A scope with a timeout that never comes, entered and left. An operation is one scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from measure import Clocks, Sample, for_about_async

IS_ASYNC = True


async def measured(scopes: Callable[[int], Awaitable[None]], seconds: float) -> Sample:
    async def measure(count: int) -> Sample:
        begin = Clocks.read()
        await scopes(count)
        return Sample.between(begin, Clocks.read(), count)

    return await for_about_async(seconds, measure, first=2000)


async def main_aevent(*, seconds: float) -> Sample:
    # Only here, as in the others: a process imports the one runtime it measures.
    import aevent

    async def scopes(count: int) -> None:
        for _ in range(count):
            with aevent.move_on_after(10):
                pass

    return await measured(scopes, seconds)


async def main_asyncio(*, seconds: float) -> Sample:
    import asyncio

    async def scopes(count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(10):
                pass

    return await measured(scopes, seconds)


async def main_trio(*, seconds: float) -> Sample:
    import trio

    async def scopes(count: int) -> None:
        for _ in range(count):
            with trio.move_on_after(10):
                pass

    return await measured(scopes, seconds)


async def main_anyio(*, seconds: float) -> Sample:
    import anyio

    async def scopes(count: int) -> None:
        for _ in range(count):
            with anyio.move_on_after(10):
                pass

    return await measured(scopes, seconds)
