"""aevent's scopes and groups beside asyncio's and anyio's: whose timeout is it?"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

import aevent

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

Wait = Callable[[], Coroutine[Any, Any, None]]

has_timeout = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.timeout and uncancel are new in Python 3.11"
)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], None]:
    """Runs an async function by the loop's own `run`, in a runner; nothing may be left behind."""

    def run_in_runner(fn: Callable[[], Any]) -> None:
        async def main() -> None:
            async with aevent.runner():
                await aevent.per_task()
                await fn()
                # No cancellation is left behind.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                time.sleep(0)
                if sys.version_info >= (3, 11):
                    task = asyncio.current_task()
                    assert task is not None and task.cancelling() == 0

        if request.param == "uvloop":
            pytest.importorskip("uvloop").run(main())
        else:
            asyncio.run(main())

    return run_in_runner


async def in_async() -> None:
    await asyncio.sleep(3600)


async def in_sync() -> None:
    time.sleep(3600)


async def in_async_child() -> None:
    async with aevent.TaskGroup() as group:
        group.spawn(in_async)


async def in_green_child() -> None:
    async with aevent.TaskGroup() as group:
        group.spawn(time.sleep, 3600)


async def in_sync_group() -> None:
    with aevent.TaskGroup() as group:
        group.spawn(time.sleep, 3600)
        group.spawn(in_async)


async def in_asyncio_group() -> None:
    if sys.version_info < (3, 11):
        return await in_async()
    async with asyncio.TaskGroup() as group:
        group.create_task(in_async())


async def in_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(in_sync)


@pytest.fixture(
    params=[
        in_async,
        in_sync,
        in_async_child,
        in_green_child,
        in_sync_group,
        in_asyncio_group,
        in_anyio_group,
    ],
    ids=lambda wait: wait.__name__,
)
def wait(request: pytest.FixtureRequest) -> Wait:
    """Waits for ever, in one place or another."""
    function: Wait = request.param
    return function


def test_ones_own_timeout(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError, match="deadline exceeded"):
            with aevent.fail_after(0.002):
                await wait()
        with aevent.move_on_after(0.002) as scope:
            await wait()
        assert scope.cancelled_caught

    run(main)


@has_timeout
def test_a_timeout_of_asyncios_further_out_is_not_ones_own(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.002):  # type: ignore[attr-defined]
                with aevent.fail_after(3600) as scope:
                    await wait()
        assert str(caught.value) == ""
        assert not scope.cancelled_caught and not scope.cancel_called

    run(main)


@has_timeout
def test_a_timeout_of_asyncios_further_in_is_not_ones_own(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with aevent.fail_after(3600) as scope:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):  # type: ignore[attr-defined]
                    await wait()
            await asyncio.sleep(0)
        assert not scope.cancel_called

    run(main)


@has_timeout
def test_ones_own_timeout_passes_one_of_asyncios_further_in(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with aevent.move_on_after(0.002) as scope:
            async with asyncio.timeout(3600) as inner:  # type: ignore[attr-defined]
                await wait()
        assert scope.cancelled_caught and not inner.expired()

    run(main)


def test_wait_for_reaches_what_it_waits_for(run: Any, wait: Wait) -> None:
    log: list[str] = []

    async def child() -> None:
        await aevent.per_task()
        log.append("begins")
        try:
            with aevent.fail_after(3600):
                await wait()
        finally:
            log.append("ended")

    async def main() -> None:
        while not log:  # it may be over before it begins
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(child(), 0.002)

    run(main)
    assert log == ["begins", "ended"]


def test_ones_own_timeout_inside_wait_for(run: Any, wait: Wait) -> None:
    async def child() -> str:
        await aevent.per_task()
        with aevent.move_on_after(0.002):
            await wait()
        return "in time"

    async def main() -> None:
        assert await asyncio.wait_for(child(), 3600) == "in time"

    run(main)


def test_a_scope_of_anyios_further_out_is_not_ones_own(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.002) as outer:
            with aevent.fail_after(3600) as scope:
                await wait()
        assert outer.cancelled_caught
        assert not scope.cancelled_caught and not scope.cancel_called

    run(main)


def test_ones_own_timeout_passes_a_scope_of_anyios_further_in(run: Any, wait: Wait) -> None:
    async def main() -> None:
        with aevent.move_on_after(0.002) as scope:
            with anyio.fail_after(3600) as inner:
                await wait()
        assert scope.cancelled_caught and not inner.cancelled_caught

    run(main)


@pytest.mark.parametrize("shield", [False, True])
def test_cancelling_the_task_goes_through_scopes_and_groups(
    run: Any, wait: Wait, shield: bool
) -> None:
    """`Task.cancel` knows no shields."""
    log: list[str] = []

    async def child() -> None:
        await aevent.per_task()
        with aevent.CancelScope(shield=shield) as scope:
            log.append("begins")
            try:
                await wait()
            finally:
                log.append("ended")
        log.append(f"not reached {scope!r}")

    async def main() -> None:
        task = asyncio.create_task(child())
        while not log:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert log == ["begins", "ended"]


@has_timeout
def test_an_error_in_a_group_of_asyncios_is_told_from_a_timeout(run: Any) -> None:
    log: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ValueError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
                group.create_task(fails())
                try:
                    with aevent.fail_after(3600):
                        time.sleep(3600)
                finally:
                    log.append("body")
        assert [type(error) for error in caught.value.exceptions] == [ValueError]

    run(main)
    assert log == ["body"]


@has_timeout
def test_both_timeouts_at_once_are_the_outer_ones(run: Any) -> None:
    async def main() -> None:
        with aevent.move_on_after(3600) as outer:
            with aevent.fail_after(3600) as scope:
                scope.deadline = outer.deadline = aevent.current_time() - 1
                await in_async()
        assert outer.cancelled_caught and not scope.cancelled_caught

    run(main)
