"""`current_effective_deadline`: what trio's says, wherever it is asked, at any time."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import aevent
from tests.backends.contract import Run


class Asked:
    """A child of a group that tells its deadline, as often as it is asked."""

    def __init__(self, kind: str) -> None:
        self.child: Callable[..., Any] = {
            "async": self._async,
            "sync": self._sync,
            "awaits": lambda **options: aevent.await_(self._async(**options)),
        }[kind]
        self._question = aevent.Event()
        self._answer = aevent.Event()
        self._told: list[float] = []
        #: What the child passes to `started`, when it is asked for the first time.
        self.starts = False

    async def _async(self, task_status: aevent.TaskStatus = aevent.TASK_STATUS_IGNORED) -> None:
        while True:
            await self._question.async_wait()
            self._tell(task_status)

    def _sync(self, task_status: aevent.TaskStatus = aevent.TASK_STATUS_IGNORED) -> None:
        while True:
            self._question.wait()
            self._tell(task_status)

    def _tell(self, task_status: aevent.TaskStatus) -> None:
        self._question.clear()
        self._told.append(aevent.current_effective_deadline())
        if self.starts:
            self.starts = False
            task_status.started()
            self._told.append(aevent.current_effective_deadline())
        self._answer.set()

    async def ask(self) -> list[float]:
        """What it says in seconds from now, to the ten: deadlines are far enough apart for that."""
        self._told.clear()
        self._answer.clear()
        self._question.set()
        await self._answer.async_wait()
        now = aevent.current_time()
        return [told if math.isinf(told) else round(told - now, -1) for told in self._told]


@pytest.fixture(params=["async", "sync", "awaits"])
def asked(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


@pytest.fixture
def hosted(backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")


def test_a_deadline_outside_the_group_may_be_moved(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with aevent.move_on_after(100) as outer:
            async with aevent.TaskGroup() as group:
                group.spawn(asked.child)
                assert await asked.ask() == [100.0]
                outer.deadline += 100
                assert await asked.ask() == [200.0]
                outer.deadline = math.inf
                assert await asked.ask() == [math.inf]
                group.cancel_scope.deadline = aevent.current_time() + 50
                assert await asked.ask() == [50.0]
                outer.deadline = aevent.current_time() + 20
                assert await asked.ask() == [20.0]
                group.cancel_scope.cancel()

    run(main)


def test_a_shield_outside_the_group_may_be_raised(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with aevent.move_on_after(100):
            with aevent.move_on_after(200) as middle:
                async with aevent.TaskGroup() as group:
                    group.spawn(asked.child)
                    middle.shield = True
                    assert await asked.ask() == [200.0]
                    group.cancel_scope.shield = True
                    assert await asked.ask() == [math.inf]
                    group.cancel_scope.shield = middle.shield = False
                    assert await asked.ask() == [100.0]
                    group.cancel_scope.cancel()

    run(main)


def test_the_childs_own_scope_counts_too(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with aevent.move_on_after(100):
            async with aevent.TaskGroup() as group:
                scope = group.spawn(asked.child)
                scope.deadline = aevent.current_time() + 50
                assert await asked.ask() == [50.0]
                scope.deadline = aevent.current_time() + 300
                assert await asked.ask() == [100.0]
                scope.shield = True
                assert await asked.ask() == [300.0]
                scope.cancel()

    run(main)


@pytest.mark.usefixtures("hosted")
def test_scopes_of_anyio_count(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with anyio.move_on_after(100) as outer:
            async with aevent.TaskGroup() as group:
                group.spawn(asked.child)
                assert await asked.ask() == [100.0]
                outer.deadline += 100
                assert await asked.ask() == [200.0]
                outer.shield = True
                group.cancel_scope.cancel()

    run(main)


@pytest.mark.usefixtures("hosted")
def test_a_child_of_anyios_group_is_told_of_deadlines_that_move(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with aevent.move_on_after(100) as outer:
            async with anyio.create_task_group() as group:
                spawn: Any = group.spawn  # type: ignore[attr-defined]
                spawn(asked.child)
                assert await asked.ask() == [100.0]
                outer.deadline += 100
                assert await asked.ask() == [200.0]
                group.cancel_scope.deadline = anyio.current_time() + 50
                assert await asked.ask() == [50.0]
                group.cancel_scope.cancel()

    run(main)


def test_groups_inside_each_other(run: Run, asked: Asked) -> None:
    async def main() -> None:
        with aevent.move_on_after(100) as outer:
            async with aevent.TaskGroup() as group:
                for inner in (in_async, in_sync):
                    outer.deadline = aevent.current_time() + 100
                    group.spawn(inner)
                    assert await asked.ask() == [100.0]
                    outer.deadline += 100
                    assert await asked.ask() == [200.0]
                    scopes.pop().cancel()
                    await ended.async_wait()
                    ended.clear()

    scopes: list[aevent.CancelScope] = []
    ended = aevent.Event()

    async def in_async() -> None:
        async with aevent.TaskGroup() as group:
            scopes.append(group.cancel_scope)
            group.spawn(asked.child)
        ended.set()

    def in_sync() -> None:
        with aevent.TaskGroup() as group:
            scopes.append(group.cancel_scope)
            group.spawn(asked.child)
        ended.set()

    run(main)


def test_a_cancellation_is_told_at_once_and_the_next_wait_raises(run: Run) -> None:
    told: list[object] = []
    outer = aevent.CancelScope()

    async def async_() -> None:
        outer.cancel()
        told.append(aevent.current_effective_deadline())
        await aevent.checkpoint()
        told.append("went on")

    def sync() -> None:
        outer.cancel()
        told.append(aevent.current_effective_deadline())
        aevent.await_(aevent.checkpoint())
        told.append("went on")

    def sync_in_thread() -> None:
        outer.cancel()
        told.append(aevent.current_effective_deadline())
        aevent.Event().wait()

    async def main(child: Callable[..., Any]) -> None:
        with outer:
            async with aevent.TaskGroup() as group:
                group.spawn(child)
        assert outer.cancelled_caught

    for child in (async_, sync, sync_in_thread):
        outer = aevent.CancelScope()
        run(main, child)
    assert told == [-math.inf] * 3


@pytest.mark.parametrize("starter", ["async", "sync"])
def test_until_it_has_started_a_child_is_told_its_starters_deadline(
    run: Run, asked: Asked, starter: str
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as outer:
            with aevent.move_on_after(300):
                async with aevent.TaskGroup() as group:
                    outer.spawn(start_async if starter == "async" else start_sync, group)
                    assert await asked.ask() == [100.0]
                    group.cancel_scope.shield = True
                    assert await asked.ask() == [100.0]
                    group.cancel_scope.shield = False
                    scopes[0].deadline += 100
                    assert await asked.ask() == [200.0]
                    group.cancel_scope.deadline = aevent.current_time() + 50
                    assert await asked.ask() == [200.0]
                    group.cancel_scope.deadline = aevent.current_time() + 400
                    asked.starts = True
                    assert await asked.ask() == [200.0, 300.0]
                    group.cancel_scope.deadline = aevent.current_time() + 50
                    assert await asked.ask() == [50.0]
                    group.cancel_scope.cancel()

    scopes: list[aevent.CancelScope] = []

    async def start_async(group: aevent.TaskGroup) -> None:
        with aevent.move_on_after(100) as scope:
            scopes.append(scope)
            await group.start(asked.child)

    def start_sync(group: aevent.TaskGroup) -> None:
        with aevent.move_on_after(100) as scope:
            scopes.append(scope)
            aevent.await_(group.start(asked.child))

    run(main)


def test_what_a_green_thread_awaits_is_told_the_threads_deadline(run: Run) -> None:
    async def look(seconds: float) -> float:
        with aevent.move_on_after(seconds):
            return round(aevent.current_effective_deadline() - aevent.current_time(), -1)

    @asynccontextmanager
    async def context(seconds: float) -> AsyncIterator[None]:
        with aevent.move_on_after(seconds):
            yield

    def sync() -> None:
        with aevent.move_on_after(100):
            assert aevent.await_(look(50)) == 50.0
            assert aevent.await_(look(200)) == 100.0
            with aevent.CancelScope(shield=True):
                assert aevent.await_(look(200)) == 200.0
            with aevent.async_context(context(30)):
                now = aevent.current_time()
                assert aevent.current_effective_deadline() == pytest.approx(now + 30, abs=4)
                assert aevent.await_(look(50)) == 30.0
            with aevent.async_context(context(300)):
                now = aevent.current_time()
                assert aevent.current_effective_deadline() == pytest.approx(now + 100, abs=4)
                assert aevent.await_(look(200)) == 100.0

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sync)

    run(main)
    run(sync)


needs_timeouts = pytest.mark.skipif(sys.version_info < (3, 11), reason="has no asyncio.timeout")


@needs_timeouts
@pytest.mark.parametrize("backend", ["asyncio", "uvloop"], indirect=True)
def test_asyncios_timeouts_count(run: Run, asked: Asked) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert aevent.current_effective_deadline() == math.inf
        with aevent.move_on_after(300):
            async with asyncio.timeout(100) as outer:
                now = aevent.current_time()
                assert aevent.current_effective_deadline() == pytest.approx(now + 100, abs=4)
                with aevent.CancelScope(shield=True):
                    # A timeout does not ask for shields.
                    assert aevent.current_effective_deadline() == pytest.approx(now + 100, abs=4)
                async with aevent.TaskGroup() as group:
                    scope = group.spawn(asked.child)
                    async with asyncio.timeout(20):
                        assert await asked.ask() == [100.0]
                    outer.reschedule(loop.time() + 200)
                    assert await asked.ask() == [200.0]
                    group.cancel_scope.shield = True
                    assert await asked.ask() == [200.0]
                    scope.shield = True
                    assert await asked.ask() == [math.inf]
                    scope.shield = group.cancel_scope.shield = False
                    outer.reschedule(None)
                    assert await asked.ask() == [300.0]
                    group.cancel_scope.cancel()
            now = aevent.current_time()
            assert aevent.current_effective_deadline() == pytest.approx(now + 300, abs=4)

    run(main)


@needs_timeouts
@pytest.mark.parametrize("backend", ["asyncio", "uvloop"], indirect=True)
def test_asyncios_timeout_around_the_starter_of_a_child(run: Run, asked: Asked) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            asked.starts = True
            group.spawn(look)
            async with asyncio.timeout(100):
                await group.start(asked.child)

            group.cancel_scope.cancel()

    async def look() -> None:
        assert await asked.ask() == [100.0, math.inf]

    run(main)
