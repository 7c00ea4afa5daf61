"""`TaskGroup.spawn`: what can be started, when it begins, and how a mistake is told."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.backends.contract import Run, boom_async, leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def test_spawn_starts_nothing_before_the_caller_waits(run: Run) -> None:
    log: list[str] = []

    async def async_() -> None:
        log.append("async")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(log.append, "sync")
            group.spawn(async_)
            assert log == []

    run(main)
    assert sorted(log) == ["async", "sync"]


def test_spawn_can_be_awaited_and_gives_the_scope(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = await group.spawn(time.sleep, 3600)
            assert isinstance(scope, aevent.CancelScope)
            other = await group.spawn(aevent.sleep_forever)
            scope.cancel()
            other.cancel()
        assert not group.cancel_scope.cancel_called

    run(main)


@pytest.mark.parametrize("fn", [time.sleep, aevent.sleep], ids=["sync", "async"])
def test_spawn_in_a_group_that_was_left_is_an_error(run: Run, fn: Callable[..., Any]) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            group.spawn(fn, 0)

    run(main)


@pytest.mark.parametrize("fn", [time.sleep, aevent.sleep], ids=["sync", "async"])
def test_spawn_in_a_group_that_is_not_entered_is_an_error(run: Run, fn: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="not entered"):
            aevent.TaskGroup().spawn(fn, 0)

    run(main)


def test_spawn_of_a_coroutine_object_says_how_to_write_it(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            coroutine = boom_async()
            with pytest.raises(TypeError, match=r"write spawn\(fn, arg\), not spawn\(fn\(arg\)\)"):
                group.spawn(coroutine)  # type: ignore[arg-type]
            coroutine.close()

    run(main)


def test_spawn_of_what_is_not_callable_names_it(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            with pytest.raises(TypeError, match=r"spawn\(\) expects a function, not 5"):
                group.spawn(5)  # type: ignore[arg-type]

    run(main)


def test_a_wrong_number_of_arguments_is_an_error_of_the_child_or_of_spawn(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(time.sleep)

    with pytest.raises((ExceptionGroup, TypeError)) as caught:
        run(main)
    assert [type(error) for error in leaves(caught.value)] == [TypeError]


def test_a_sync_function_that_returns_a_coroutine_is_reported(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(lambda: boom_async())

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    (error,) = caught.value.exceptions
    assert isinstance(error, TypeError) and "pass the async function itself" in str(error)


def test_a_green_child_is_named(run: Run) -> None:
    names: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(lambda: names.append(threading.current_thread().name), name="named")

    run(main)
    assert names == ["named"]


def test_the_result_of_children_is_dropped_and_many_run(run: Run) -> None:
    ran = 0

    def sync() -> int:
        nonlocal ran
        time.sleep(0)
        ran += 1
        return 1

    async def async_() -> int:
        nonlocal ran
        await aevent.checkpoint()
        time.sleep(0)
        ran += 1
        return 1

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for _ in range(200):
                group.spawn(sync)
                group.spawn(async_)

    run(main)
    assert ran == 400
