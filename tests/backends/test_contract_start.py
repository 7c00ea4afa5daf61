"""`TaskGroup.start`: a child that says when it has started."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.backends.contract import Boom, Run, Settle

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

#: A function for `start`, async or synchronous, that does what the list says.
Service = Callable[..., Any]


def service(kind: str, log: list[str]) -> Service:
    """A service that follows its arguments: "start", "boom", "sleep", "return" and "checkpoint"."""

    async def async_(*steps: str, task_status: aevent.TaskStatus) -> None:
        try:
            for step in steps:
                if step == "start":
                    task_status.started("value")
                elif step == "boom":
                    raise Boom
                elif step == "sleep":
                    await aevent.sleep_forever()
                else:
                    await aevent.checkpoint()
                log.append(step)
        finally:
            log.append("end")

    def sync(*steps: str, task_status: aevent.TaskStatus) -> None:
        try:
            for step in steps:
                if step == "start":
                    task_status.started("value")
                elif step == "boom":
                    raise Boom
                elif step == "sleep":
                    time.sleep(3600)
                else:
                    time.sleep(0)
                log.append(step)
        finally:
            log.append("end")

    return async_ if kind == "async" else sync


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture(params=["async", "sync"])
def serve(request: pytest.FixtureRequest, log: list[str]) -> Service:
    return service(request.param, log)


def test_start_returns_the_value_and_the_child_goes_on(
    run: Run, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            assert await group.start(serve, "checkpoint", "start", "checkpoint") == "value"
            log.append("caller")
        log.append("left")

    run(main)
    assert sorted(log) == ["caller", "checkpoint", "checkpoint", "end", "left", "start"]
    assert log[-1] == "left"
    assert log.index("start") < log.index("caller")


def test_start_in_synchronous_code(run: Run, serve: Service, log: list[str]) -> None:
    def main() -> None:
        with aevent.TaskGroup() as group:
            assert aevent.await_(group.start(serve, "start", "checkpoint")) == "value"
        log.append("left")

    run(main)
    assert log == ["start", "checkpoint", "end", "left"]


def test_the_value_is_none_unless_the_child_gives_one(run: Run) -> None:
    async def async_(*, task_status: aevent.TaskStatus) -> None:
        task_status.started()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            assert await group.start(async_) is None

    run(main)


def test_an_exception_before_it_has_started_is_raised_by_start_alone(
    run: Run, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with pytest.raises(Boom):
                await group.start(serve, "checkpoint", "boom")
            assert not group.cancel_scope.cancel_called
            await aevent.checkpoint()
            log.append("unharmed")

    run(main)
    assert log == ["checkpoint", "end", "unharmed"]


def test_an_exception_after_it_has_started_is_the_groups(
    run: Run, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            await group.start(serve, "start", "checkpoint", "boom")
            await aevent.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert log == ["start", "checkpoint", "end"]


def test_a_child_that_ends_without_having_started_is_an_error_of_start(
    run: Run, serve: Service
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with pytest.raises(RuntimeError, match=r"without calling task_status\.started\(\)"):
                await group.start(serve, "checkpoint")
            assert not group.cancel_scope.cancel_called

    run(main)


def test_cancelling_start_cancels_the_child_and_waits_for_it(
    run: Run, settle: Settle, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with aevent.CancelScope() as scope:
                group.spawn(cancel, scope)
                try:
                    await group.start(serve, "checkpoint", "sleep")
                finally:
                    log.append("start ended")
            assert scope.cancelled_caught
            assert not group.cancel_scope.cancel_called

    async def cancel(scope: aevent.CancelScope) -> None:
        await settle()
        scope.cancel()

    run(main)
    assert log == ["checkpoint", "end", "start ended"]


def test_an_exception_of_a_child_that_start_has_cancelled_is_raised_by_start(
    run: Run, settle: Settle
) -> None:
    async def fails(*, task_status: aevent.TaskStatus) -> None:
        try:
            await aevent.sleep_forever()
        finally:
            raise Boom

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with pytest.raises(Boom):
                with aevent.CancelScope() as scope:
                    group.spawn(cancel, scope)
                    await group.start(fails)
            assert not group.cancel_scope.cancel_called

    async def cancel(scope: aevent.CancelScope) -> None:
        await settle()
        scope.cancel()

    run(main)


def test_start_of_a_caller_that_is_cancelled_already(
    run: Run, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with aevent.CancelScope() as scope:
                scope.cancel()
                await group.start(serve, "checkpoint", "start")
            assert scope.cancelled_caught

    run(main)
    assert log == ["end"]


def test_the_groups_cancellation_reaches_the_child_when_it_has_started(
    run: Run, settle: Settle, serve: Service, log: list[str]
) -> None:
    """Before that, it belongs to the caller of start, who is outside the group here."""

    async def caller(group: aevent.TaskGroup) -> None:
        assert await group.start(waits, serve) == "value"
        log.append("started")

    async def waits(inner: Service, *, task_status: aevent.TaskStatus) -> None:
        await settle()
        log.append("still running")
        task_status.started("value")
        await aevent.sleep_forever()

    async def main() -> None:
        async with aevent.TaskGroup() as outer:
            async with aevent.TaskGroup() as group:
                outer.spawn(caller, group)
                await aevent.checkpoint()
                await aevent.checkpoint()
                group.cancel_scope.cancel()
            assert group.cancel_scope.cancel_called

    run(main)
    assert log == ["still running", "started"]


def test_leaving_the_group_waits_for_a_child_that_has_not_started(
    run: Run, settle: Settle, log: list[str]
) -> None:
    async def waits(*, task_status: aevent.TaskStatus) -> None:
        await settle()
        log.append("starts")
        task_status.started()

    async def caller(group: aevent.TaskGroup) -> None:
        await group.start(waits)

    async def main() -> None:
        async with aevent.TaskGroup() as outer:
            async with aevent.TaskGroup() as group:
                outer.spawn(caller, group)
                await aevent.checkpoint()
                await aevent.checkpoint()
            log.append("left")

    run(main)
    assert log == ["starts", "left"]


def test_started_twice_is_an_error(run: Run) -> None:
    async def twice(*, task_status: aevent.TaskStatus) -> None:
        task_status.started()
        with pytest.raises(RuntimeError, match="called 'started' twice"):
            task_status.started()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            await group.start(twice)

    run(main)


def test_a_function_with_the_default_status_can_be_called_directly(run: Run) -> None:
    async def async_(*, task_status: aevent.TaskStatus = aevent.TASK_STATUS_IGNORED) -> None:
        task_status.started("ignored")
        await aevent.checkpoint()

    async def main() -> None:
        await async_()
        async with aevent.TaskGroup() as group:
            group.spawn(async_)
            assert await group.start(async_) == "ignored"

    run(main)


def test_a_function_that_takes_no_status_is_an_error_of_start(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for fn in (aevent.checkpoint, len):
                with pytest.raises(TypeError):
                    await group.start(fn)

    run(main)


def test_start_in_a_group_that_was_left_is_an_error(run: Run, serve: Service) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await group.start(serve, "start")
        with pytest.raises(RuntimeError, match="not entered"):
            await aevent.TaskGroup().start(serve, "start")

    run(main)


def test_a_child_may_start_another_in_its_group(run: Run, log: list[str]) -> None:
    async def outer(group: aevent.TaskGroup, *, task_status: aevent.TaskStatus) -> None:
        task_status.started(await group.start(inner))

    def inner(*, task_status: aevent.TaskStatus) -> None:
        time.sleep(0)
        task_status.started("inner")
        time.sleep(0)
        log.append("inner ended")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            assert await group.start(outer, group) == "inner"

    run(main)
    assert log == ["inner ended"]


def test_a_value_is_returned_though_the_child_has_failed_since(
    run: Run, serve: Service, log: list[str]
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            log.append(await group.start(serve, "start", "boom"))
            await aevent.checkpoint()
            log.append("not cancelled")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert log == ["start", "end", "value"]


def test_a_child_that_has_started_stays_though_the_caller_is_cancelled_at_once(
    run: Run, log: list[str]
) -> None:
    async def cancels(scope: aevent.CancelScope, *, task_status: aevent.TaskStatus) -> None:
        task_status.started("value")
        scope.cancel()
        for _ in range(3):
            await aevent.checkpoint()
        log.append("child ended")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with aevent.CancelScope() as scope:
                log.append(await group.start(cancels, scope))
                await aevent.checkpoint()
                log.append("not cancelled")
            assert scope.cancelled_caught

    run(main)
    assert log == ["value", "child ended"]


def test_a_child_that_starts_and_ends_in_spite_of_the_cancellation_has_its_value_returned(
    run: Run, settle: Settle, log: list[str]
) -> None:
    async def late(*, task_status: aevent.TaskStatus) -> None:
        with aevent.CancelScope(shield=True):
            await is_cancelled.async_wait()
        task_status.started("value")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with aevent.CancelScope() as scope:
                group.spawn(cancel, scope)
                log.append(await group.start(late))
                await aevent.checkpoint()
                log.append("not cancelled")
            assert scope.cancelled_caught

    async def cancel(scope: aevent.CancelScope) -> None:
        await settle()
        scope.cancel()
        is_cancelled.set()

    is_cancelled = aevent.Event()
    run(main)
    assert log == ["value"]


def test_a_cancellation_by_asyncio_alone_is_not_lost_for_a_value(
    run: Run, backend: str, log: list[str]
) -> None:
    """It comes once, unlike a scope's."""
    if backend not in ("asyncio", "uvloop"):
        pytest.skip("asyncio's")

    async def cancels(task: asyncio.Task[Any], *, task_status: aevent.TaskStatus) -> None:
        task_status.started("value")
        task.cancel()
        await aevent.checkpoint()
        log.append("child ended")

    async def caller(group: aevent.TaskGroup) -> None:
        task = asyncio.current_task()
        assert task is not None
        log.append(await group.start(cancels, task))

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            task = asyncio.ensure_future(caller(group))
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)
    assert log == ["child ended"]
