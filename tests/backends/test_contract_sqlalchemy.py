"""SQLAlchemy's asyncio extension, which runs its synchronous half in greenlets of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aevent
from tests.backends.contract import Run

pytest.importorskip("sqlalchemy")

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util.concurrency import await_only, greenlet_spawn


async def answer(number: int) -> int:
    await aevent.sleep(0.0005)
    # Synchronous code in what is awaited, and what it awaits.
    time.sleep(0)
    return aevent.await_(doubled(number))


async def doubled(number: int) -> int:
    await aevent.checkpoint()
    return 2 * number


def session(number: int) -> int:
    """Sync code in SQLAlchemy's greenlet: it waits by SQLAlchemy, by itself, and by us."""
    total = 0
    for _ in range(3):
        total += await_only(answer(number))
        time.sleep(0.0005)
        total += aevent.await_(doubled(number))
    return total


def test_greenlet_spawn_in_tasks_of_every_kind(run: Run) -> None:
    async def task(number: int) -> None:
        results.append(await greenlet_spawn(session, number))

    def thread(number: int) -> None:
        aevent.await_(task(number))

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for number in range(5):
                group.spawn(task, number)
                group.spawn(thread, number)
        await task(5)

    results: list[int] = []
    run(main)
    # Three times twice the number, and that twice.
    assert sorted(results) == sorted(12 * number for number in (*range(5), *range(5), 5))


def test_greenlet_spawn_that_is_cancelled(run: Run) -> None:
    log: list[str] = []

    def stuck(by: Callable[[], Any]) -> None:
        try:
            by()
        finally:
            log.append("finally")

    async def main() -> None:
        for by in (
            lambda: await_only(aevent.sleep_forever()),
            lambda: time.sleep(10),
            lambda: aevent.await_(aevent.sleep_forever()),
        ):
            with aevent.move_on_after(0.001) as scope:
                await greenlet_spawn(stuck, by)
            assert scope.cancelled_caught

    run(main)
    assert log == ["finally"] * 3


def test_an_async_engine(run: Run, backend: str, tmp_path: Path) -> None:
    pytest.importorskip("aiosqlite")
    if backend not in ("asyncio", "uvloop"):
        pytest.skip("aiosqlite is asyncio's")

    async def query(engine: Any, number: int) -> int:
        async with engine.connect() as connection:
            time.sleep(0)
            result = await connection.execute(text("select :x * 2"), {"x": number})
            value: int = result.scalar_one()
            return value

    async def main() -> list[int]:
        results: list[int] = []
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/database")
        async with aevent.TaskGroup() as group:
            for number in range(3):
                group.spawn(lambda n: results.append(aevent.await_(query(engine, n))), number)
        results.append(await query(engine, 10))
        await engine.dispose()
        return sorted(results)

    assert run(main) == [0, 2, 4, 20]
