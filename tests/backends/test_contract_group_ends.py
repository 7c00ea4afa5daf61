"""What is left of a task group and of its children when they have ended."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aevent
from tests.backends.contract import Boom, Run, Settle, boom, boom_async, leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Thing:
    """Something that a child has in a local variable."""


things: list[weakref.ref[Thing]] = []


async def has_thing_async() -> None:
    thing = Thing()
    things.append(weakref.ref(thing))
    await aevent.sleep_forever()


def has_thing() -> None:
    thing = Thing()
    things.append(weakref.ref(thing))
    time.sleep(3600)


@pytest.fixture
def no_collector() -> Iterator[None]:
    things.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("fn", [has_thing_async, has_thing])
@pytest.mark.parametrize("how", ["group", "scopes"])
def test_what_a_cancelled_child_had_is_freed_at_once(
    run: Run, settle: Settle, fn: Callable[[], Any], how: str
) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scopes = [group.spawn(fn) for _ in range(3)]
            await settle()
            for scope in scopes if how == "scopes" else [group.cancel_scope]:
                scope.cancel()
        assert [thing() for thing in things] == [None] * 3

    run(main)


@pytest.mark.parametrize("fn", [aevent.checkpoint, boom, boom_async, aevent.sleep_forever])
def test_the_scope_of_a_child_that_has_ended_says_so(
    run: Run, settle: Settle, fn: Callable[..., Any]
) -> None:
    async def main() -> None:
        scopes: list[aevent.CancelScope] = []
        with contextlib.suppress(ExceptionGroup):
            async with aevent.TaskGroup() as group:
                scopes += [group.spawn(fn), group.cancel_scope]
                assert repr(scopes[0]) == "<aevent.CancelScope, active>"
                await settle()
                group.cancel_scope.cancel()
        assert "exited" in repr(scopes[0])
        assert repr(scopes[1]) == "<aevent.CancelScope, exited, cancelled>"

    run(main)


def test_the_groups_exception_has_no_context(run: Run, backend: str) -> None:
    """It tells all that there is by its parts."""
    if backend in ("asyncio", "uvloop"):
        pytest.skip("a coroutine that was cancelled in its last step is given one by CPython")

    async def main(fn: Callable[..., Any] | None) -> None:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            async with aevent.TaskGroup() as group:
                if fn is None:
                    boom()
                else:
                    group.spawn(fn)

    for fn in (None, boom):
        with pytest.raises(BaseException) as caught:
            run(main, fn)
        assert [type(leaf) for leaf in leaves(caught.value)] == [Boom]
        assert caught.value.__context__ is None


def test_a_siblings_failure_is_not_the_context_of_a_cancellation(run: Run) -> None:
    contexts: list[BaseException | None] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(boom_async)
            try:
                await aevent.sleep_forever()
            except BaseException as error:
                contexts.append(error.__context__)
                raise

    with pytest.raises(BaseException):  # noqa: B017 - a group of it
        run(main)
    assert contexts == [None]


def test_a_group_is_left_once_and_by_the_task_that_has_entered_it(run: Run) -> None:
    log: list[str] = []

    async def leave(group: aevent.TaskGroup) -> None:
        with pytest.raises(RuntimeError, match="by another task than the one that entered it"):
            await group.__aexit__(None, None, None)
        log.append("refused")

    async def leave_again(group: aevent.TaskGroup) -> None:
        with pytest.raises(RuntimeError, match="was left already"):
            await group.__aexit__(None, None, None)

    async def main() -> None:
        async with aevent.TaskGroup() as outer:
            async with aevent.TaskGroup() as group:
                await outer.start(leave_first, group)
                group.spawn(log.append, "child")
            await leave_again(group)
            async with aevent.TaskGroup() as group:
                await group.__aexit__(None, None, None)
                log.append("left early")
                with pytest.raises(RuntimeError, match="closed"):
                    group.spawn(log.append, "no")
                raise Boom

    async def leave_first(group: aevent.TaskGroup, *, task_status: aevent.TaskStatus) -> None:
        await leave(group)
        task_status.started()

    def sync_main() -> None:
        with aevent.TaskGroup() as group:
            group.__exit__(None, None, None)

    with pytest.raises(BaseException) as caught:
        run(main)
    left_already = leaves(caught.value)[0]
    assert isinstance(left_already, RuntimeError)
    assert isinstance(left_already.__context__, Boom)
    assert log == ["refused", "child", "left early"]
    with pytest.raises(RuntimeError, match="was left already"):
        run(sync_main)
