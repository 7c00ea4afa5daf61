"""Exception groups that hold cancellations: hosts raise such ones, and so may anybody."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import aevent

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

Run = Callable[..., Any]
Fn = Callable[..., Any]


class Boom(Exception):
    pass


@contextmanager
def grouped(*others: BaseException) -> Iterator[None]:
    """What ends the body is raised in a group, beside `others`."""
    try:
        yield
    except BaseException as error:
        raise BaseExceptionGroup("of the program", [error, *others]) from None


def sync_child(*others: BaseException) -> None:
    with grouped(*others):
        time.sleep(3600)


async def async_child(*others: BaseException) -> None:
    with grouped(*others):
        await aevent.sleep_forever()


@pytest.fixture(params=[sync_child, async_child], ids=["sync", "async"])
def child(request: pytest.FixtureRequest) -> Fn:
    function: Fn = request.param
    return function


def test_a_child_cancelled_with_its_group(run: Run, child: Fn) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(child)
            await aevent.checkpoint()
            group.cancel_scope.cancel()
        assert group.cancel_scope.cancelled_caught

    run(main)


def test_a_child_cancelled_by_its_own_scope(run: Run, child: Fn, settle: Callable[[], Any]) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(child)
            await settle()
            scope.cancel()
            await settle()
            assert scope.cancelled_caught
            assert not group.cancel_scope.cancel_called

    run(main)


def test_what_went_wrong_in_a_cancelled_child_is_raised_without_the_cancellation(
    run: Run, child: Fn
) -> None:
    async def main() -> None:
        boom = Boom()
        with pytest.raises(ExceptionGroup) as caught:
            async with aevent.TaskGroup() as group:
                group.spawn(child, boom)
                await aevent.checkpoint()
                group.cancel_scope.cancel()
        (of_child,) = caught.value.exceptions
        assert isinstance(of_child, ExceptionGroup)
        assert of_child.exceptions == (boom,)

    run(main)


def test_the_body_of_a_cancelled_group(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.cancel_scope.cancel()
            await async_child()
        assert group.cancel_scope.cancelled_caught
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup():
                scope.cancel()
                await async_child()
        assert scope.cancelled_caught
        with pytest.raises(ExceptionGroup):
            async with aevent.TaskGroup() as group:
                group.cancel_scope.cancel()
                await async_child(Boom())

    run(main)


def test_the_body_of_a_cancelled_group_in_synchronous_code(run: Run) -> None:
    def main() -> None:
        with aevent.TaskGroup() as group:
            group.cancel_scope.cancel()
            sync_child()
        assert group.cancel_scope.cancelled_caught
        with aevent.CancelScope() as scope:
            with aevent.TaskGroup():
                scope.cancel()
                sync_child()
        assert scope.cancelled_caught
        with pytest.raises(ExceptionGroup):
            with aevent.TaskGroup() as group:
                group.cancel_scope.cancel()
                sync_child(Boom())

    run(main)


def test_a_child_that_start_was_cancelled_with(run: Run) -> None:
    async def serve(*, task_status: Any) -> None:
        await async_child()

    def serve_sync(*, task_status: Any) -> None:
        sync_child()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for fn in (serve, serve_sync):
                with aevent.move_on_after(0.001) as scope:
                    await group.start(fn)
                assert scope.cancelled_caught

    run(main)


def test_a_nursery_of_trio_in_a_cancelled_group(settle: Callable[[], Any]) -> None:
    trio = pytest.importorskip("trio")

    async def in_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    async def start_in_nursery(*, task_status: Any) -> None:
        await in_nursery()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(in_nursery)
            await settle()
            scope.cancel()
        async with aevent.TaskGroup() as group:
            group.spawn(in_nursery)
            await settle()
            group.cancel_scope.cancel()
            await in_nursery()
        async with aevent.TaskGroup() as group:
            with trio.move_on_after(0.001) as outer:
                await group.start(start_in_nursery)
            assert outer.cancelled_caught

    aevent.run(main, backend="trio")
