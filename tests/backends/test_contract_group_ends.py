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
