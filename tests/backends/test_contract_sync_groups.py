"""Task groups in synchronous code: a plain `with`."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.backends.contract import Boom, Run

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def boom() -> None:
    raise Boom


async def boom_async() -> None:
    await aevent.checkpoint()
    raise Boom


@pytest.fixture(params=["main thread", "thread", "child", "coroutine"])
def where(request: pytest.FixtureRequest) -> str:
    """Whose synchronous code it is."""
    name: str = request.param
    return name


@pytest.fixture
def code(run: Run, where: str) -> Callable[[Callable[[], None]], None]:
    """Runs a function there."""

    def run_code(body: Callable[[], None]) -> None:
        if where == "main thread":
            run(body)
        elif where == "thread":
            errors: list[BaseException] = []

            def guarded() -> None:
                try:
                    body()
                except BaseException as error:
                    errors.append(error)

            def main() -> None:
                thread = threading.Thread(target=guarded)
                thread.start()
                thread.join()

            run(main)
            if errors:
                raise errors[0]
        elif where == "child":

            async def main_of_child() -> None:
                async with aevent.TaskGroup() as group:
                    await group.start(child)

            def child(*, task_status: aevent.TaskStatus) -> None:
                body()
                task_status.started()

            run(main_of_child)
        else:

            async def main_of_coroutine() -> None:
                body()

            run(main_of_coroutine)

    return run_code


Code = Callable[[Callable[[], None]], None]


def test_leaving_a_group_waits_for_children_of_both_kinds(code: Code) -> None:
    log: list[str] = []

    def sync(note: str) -> None:
        time.sleep(0)
        log.append(note)

    async def async_(note: str) -> None:
        await aevent.checkpoint()
        log.append(note)

    def body() -> None:
        with aevent.TaskGroup() as group:
            assert isinstance(group.spawn(sync, "sync"), aevent.CancelScope)
            assert isinstance(group.spawn(async_, "async"), aevent.CancelScope)
            group.start_soon(sync, "soon")
            log.append("body")
        log.append("left")

    code(body)
    assert log[0] == "body" and log[-1] == "left"
    assert sorted(log[1:-1]) == ["async", "soon", "sync"]


def test_a_group_without_children_is_left_at_once(code: Code) -> None:
    def body() -> None:
        with aevent.TaskGroup() as group:
            assert repr(group) == "<aevent.TaskGroup, active>"
        assert repr(group) == "<aevent.TaskGroup, left>"

    code(body)


@pytest.mark.parametrize("fail", [boom, boom_async], ids=["sync", "async"])
def test_an_error_in_a_child_cancels_siblings_and_body(
    code: Code, fail: Callable[..., Any]
) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    async def async_() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            log.append("async")

    async def fail_later() -> None:
        for _ in range(20):
            await aevent.checkpoint()
        result = fail()
        if result is not None:
            await result

    def body() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            with aevent.TaskGroup() as group:
                group.spawn(sync)
                group.spawn(async_)
                group.spawn(fail_later)
                try:
                    time.sleep(3600)
                finally:
                    log.append("body")
        assert [type(error) for error in caught.value.exceptions] == [Boom]
        time.sleep(0)

    code(body)
    assert sorted(log) == ["async", "body", "sync"]


def test_an_error_in_the_body_cancels_the_children(code: Code) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    def body() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            with aevent.TaskGroup() as group:
                group.spawn(sync)
                group.spawn(aevent.sleep_forever)
                time.sleep(0)
                raise Boom
        assert [type(error) for error in caught.value.exceptions] == [Boom]

    code(body)
    assert log == ["sync"]


def test_a_timeout_around_a_group_reaches_its_children(code: Code) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    async def async_() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            log.append("async")

    def body() -> None:
        with aevent.move_on_after(0.002) as scope:
            with aevent.TaskGroup() as group:
                group.spawn(sync)
                group.spawn(async_)
            pytest.fail("not reached")
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with aevent.fail_after(0.002), aevent.TaskGroup() as group:
                group.spawn(sync)

    code(body)
    assert sorted(log) == ["async", "sync", "sync"]


def test_cancelling_the_group_ends_it(code: Code) -> None:
    log: list[str] = []

    def body() -> None:
        with aevent.TaskGroup() as group:
            group.spawn(time.sleep, 3600)
            group.spawn(aevent.sleep_forever)
            group.spawn(group.cancel_scope.cancel)
            time.sleep(3600)
            pytest.fail("not reached")
        log.append("left")
        time.sleep(0)

    code(body)
    assert log == ["left"]


def test_a_child_may_spawn_into_the_group_of_its_parent(code: Code) -> None:
    log: list[int] = []

    def body() -> None:
        with aevent.TaskGroup() as group:

            def sync(depth: int) -> None:
                time.sleep(0)
                log.append(depth)
                if depth:
                    group.spawn(async_ if depth % 2 else sync, depth - 1)

            async def async_(depth: int) -> None:
                await aevent.checkpoint()
                log.append(depth)
                if depth:
                    group.spawn(sync, depth - 1)

            group.spawn(sync, 5)

    code(body)
    assert log == [5, 4, 3, 2, 1, 0]


def test_groups_nest(code: Code) -> None:
    def body() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            with aevent.TaskGroup() as outer:
                outer.spawn(time.sleep, 3600)
                with aevent.TaskGroup() as inner:
                    inner.spawn(boom)
        (nested,) = caught.value.exceptions
        assert isinstance(nested, ExceptionGroup)
        assert [type(error) for error in nested.exceptions] == [Boom]

    code(body)


def test_a_group_that_was_left_takes_no_more_children(code: Code) -> None:
    def body() -> None:
        with aevent.TaskGroup() as group:
            pass
        for fn in (time.sleep, aevent.sleep):
            with pytest.raises(RuntimeError, match="closed"):
                group.spawn(fn, 0)
        with pytest.raises(RuntimeError, match="once only"):
            with group:
                pass

    code(body)


def test_the_group_of_another_os_thread_is_an_error(run: Run) -> None:
    errors: list[BaseException] = []

    def other(group: aevent.TaskGroup) -> None:
        try:
            group.spawn(time.sleep, 0)
        except BaseException as error:
            errors.append(error)

    def main() -> None:
        with aevent.TaskGroup() as group:
            with aevent.native():
                thread = threading.Thread(target=other, args=(group,))
                thread.start()
                thread.join()

    run(main)
    assert [type(error) for error in errors] == [RuntimeError]


def test_a_group_outside_a_task_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="outside a task"):
        with aevent.TaskGroup():
            pass

    async def main() -> None:
        async with aevent.runner():
            with pytest.raises(RuntimeError, match=r"await aevent\.per_task\(\)"):
                with aevent.TaskGroup():
                    pass

    asyncio.run(main())


def test_a_group_in_a_task_that_asyncio_cancels() -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    async def child() -> None:
        await aevent.per_task()
        with aevent.TaskGroup() as group:
            group.spawn(sync)
            log.append("ready")
        pytest.fail("not reached")

    async def main() -> None:
        async with aevent.runner():
            task = asyncio.create_task(child())
            while not log:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert log == ["ready", "sync"]


def test_code_under_native_can_leave_a_group(code: Code) -> None:
    log: list[str] = []

    def body() -> None:
        with aevent.native(), aevent.TaskGroup() as group:
            group.spawn(log.append, "child")

    code(body)
    assert log == ["child"]
