"""Task groups: children that are async functions and synchronous ones alike."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.backends.contract import Boom, Run, Settle, boom, boom_async, leaves

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def sleep_and_note(log: list[str], note: str) -> None:
    try:
        time.sleep(3600)
    finally:
        log.append(note)


async def sleep_and_note_async(log: list[str], note: str) -> None:
    try:
        await aevent.sleep_forever()
    finally:
        log.append(note)


def test_leaving_a_group_waits_for_all_children(run: Run) -> None:
    log: list[str] = []

    def sync() -> None:
        time.sleep(0.001)
        log.append("sync")

    async def async_() -> None:
        while "sync" not in log:
            await aevent.sleep(0)
        log.append("async")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(async_)
            group.spawn(sync)
            log.append("body")
        log.append("left")

    run(main)
    assert log == ["body", "sync", "async", "left"]


def test_a_group_without_children_is_left_at_once(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup():
            pass

    run(main)


@pytest.mark.parametrize("fail", [boom, boom_async], ids=["sync", "async"])
def test_an_error_in_a_child_cancels_the_siblings_and_the_body(
    run: Run, fail: Callable[..., Any]
) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "sync")
            group.spawn(sleep_and_note_async, log, "async")
            await aevent.sleep(0.001)
            group.spawn(fail, 1)
            await sleep_and_note_async(log, "body")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [repr(error) for error in caught.value.exceptions] == ["Boom(1)"]
    assert sorted(log) == ["async", "body", "sync"]


def test_an_error_in_a_child_reaches_the_body_in_a_sync_call(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(boom_async)
            sleep_and_note(log, "body")

    with pytest.raises(ExceptionGroup):
        run(main)
    assert log == ["body"]


def test_the_group_has_every_error(run: Run) -> None:
    def fail_when_cancelled() -> None:
        try:
            time.sleep(3600)
        finally:
            raise Boom("while cancelled")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(fail_when_cancelled)
            await aevent.sleep(0.001)
            group.spawn(boom, "sync")
            group.spawn(boom_async, "async")
            raise Boom("body")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    errors = {str(error) for error in caught.value.exceptions}
    # The async child may be cancelled before its first checkpoint is over.
    assert errors - {"async", "sync"} == {"while cancelled", "body"}


def test_an_error_in_the_body_cancels_the_children_and_is_in_the_group(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "sync")
            group.spawn(sleep_and_note_async, log, "async")
            await aevent.sleep(0.001)
            raise Boom("body")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [repr(error) for error in caught.value.exceptions] == ["Boom('body')"]
    assert sorted(log) == ["async", "sync"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_base_exceptions_of_children_arrive_in_a_base_group(
    run: Run, kind: type[BaseException], asynchronous: bool
) -> None:
    log: list[str] = []

    def sync() -> None:
        raise kind

    async def async_() -> None:
        raise kind

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "sibling")
            await aevent.sleep(0.001)
            group.spawn(async_ if asynchronous else sync)

    with pytest.raises((BaseExceptionGroup, KeyboardInterrupt)) as caught:
        run(main)
    error = caught.value
    if kind is KeyboardInterrupt:
        # Nobody expects a program that is interrupted to end with a group.
        assert type(error) is KeyboardInterrupt
        error = error.__cause__
    assert [type(leaf) for leaf in leaves(error)] == [kind]
    assert log == ["sibling"]


def test_cancelling_one_child_leaves_the_others_alone(run: Run) -> None:
    log: list[str] = []

    def survivor() -> None:
        time.sleep(0.01)
        log.append("survivor")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(survivor)
            scopes = [
                group.spawn(sleep_and_note, log, "sync"),
                group.spawn(sleep_and_note_async, log, "async"),
            ]
            await aevent.sleep(0.001)
            for scope in scopes:
                scope.cancel()
        assert not group.cancel_scope.cancel_called

    run(main)
    assert sorted(log) == ["async", "survivor", "sync"]


def test_a_child_cancelled_before_it_began_stops_where_it_first_waits(run: Run) -> None:
    log: list[str] = []

    def sync() -> None:
        log.append("sync")
        time.sleep(0)
        log.append("not reached")

    async def async_() -> None:
        log.append("async")
        await aevent.sleep(0)
        log.append("not reached")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sync).cancel()
            group.spawn(async_).cancel()

    run(main)
    assert sorted(log) == ["async", "sync"]


def test_cancelling_the_group_absorbs_the_cancellation(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "sync")
            group.spawn(sleep_and_note_async, log, "async")
            await aevent.sleep(0.001)
            group.cancel_scope.cancel()
        log.append("after")
        await aevent.checkpoint()
        assert group.cancel_scope.cancel_called

    run(main)
    assert sorted(log) == ["after", "async", "sync"]


def test_a_child_may_cancel_its_group(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "sibling")
            await aevent.sleep(0.001)
            group.spawn(lambda: group.cancel_scope.cancel())

    run(main)
    assert log == ["sibling"]


def test_outer_cancellation_reaches_the_children_and_goes_on(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        with aevent.move_on_after(0.005) as scope:
            async with aevent.TaskGroup() as group:
                group.spawn(sleep_and_note, log, "sync")
                group.spawn(sleep_and_note_async, log, "async")
            log.append("not reached")
        assert scope.cancelled_caught

    run(main)
    assert sorted(log) == ["async", "sync"]


def test_outer_cancellation_during_the_body_reaches_the_children(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        with aevent.move_on_after(0.005) as scope:
            async with aevent.TaskGroup() as group:
                group.spawn(sleep_and_note, log, "sync")
                await sleep_and_note_async(log, "body")
        assert scope.cancelled_caught

    run(main)
    assert sorted(log) == ["body", "sync"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_error_while_a_scope_outside_is_cancelled_is_not_lost(
    run: Run, settle: Settle, asynchronous: bool
) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            raise Boom

    async def async_() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            raise Boom

    async def main() -> None:
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as group:
                group.spawn(async_ if asynchronous else sync)
                group.spawn(sleep_and_note, log, "sync")
                group.spawn(sleep_and_note_async, log, "async")
                await settle()
                scope.cancel()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert sorted(log) == ["async", "sync"]


def test_a_group_whose_children_end_in_spite_of_a_cancellation_is_none(
    run: Run, settle: Settle
) -> None:
    """As in trio: leaving a group is no place where a task is cancelled."""

    async def shielded(event: aevent.Event) -> None:
        with aevent.CancelScope(shield=True):
            await event.async_wait()

    async def cancel(scope: aevent.CancelScope, event: aevent.Event) -> None:
        with aevent.CancelScope(shield=True):
            await settle()
            scope.cancel()
            await settle()
            event.set()

    async def main() -> None:
        log: list[str] = []
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as group:
                event = aevent.Event()
                group.spawn(shielded, event)
                group.spawn(cancel, scope, event)
            log.append("left")
            scope.cancel()
            async with aevent.TaskGroup():
                pass
            log.append("left")
            await aevent.checkpoint()
            log.append("not reached")
        assert scope.cancelled_caught
        assert log == ["left", "left"]

    run(main)


def test_nested_groups_nest_their_errors(run: Run) -> None:
    log: list[str] = []

    async def inner() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "inner")
            group.spawn(boom_async, "deep")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(sleep_and_note, log, "outer")
            group.spawn(inner)

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    (nested,) = caught.value.exceptions
    assert isinstance(nested, ExceptionGroup)
    assert [repr(error) for error in nested.exceptions] == ["Boom('deep')"]
    assert sorted(log) == ["inner", "outer"]


def test_an_error_of_an_inner_group_can_be_caught_outside_it(run: Run) -> None:
    async def main() -> str:
        async with aevent.TaskGroup() as group:
            group.spawn(aevent.sleep, 0.005)
            with pytest.raises(ExceptionGroup):
                async with aevent.TaskGroup() as inner:
                    inner.spawn(boom)
            await aevent.checkpoint()
        return "unharmed"

    assert run(main) == "unharmed"


def test_children_can_spawn_siblings_while_the_group_is_left(run: Run) -> None:
    log: list[int] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:

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

    run(main)
    assert log == [5, 4, 3, 2, 1, 0]


def test_a_group_can_be_entered_once_only(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="once only"):
            async with group:
                pass

    run(main)


def test_repr_tells_the_state(run: Run) -> None:
    async def main() -> None:
        group = aevent.TaskGroup()
        assert repr(group) == "<aevent.TaskGroup, unbound>"
        async with group:
            assert repr(group) == "<aevent.TaskGroup, active>"
        assert repr(group) == "<aevent.TaskGroup, left>"

    run(main)


@pytest.mark.parametrize("fn", [boom, boom_async])
def test_what_a_child_raises_has_its_traceback(run: Run, fn: Callable[..., Any]) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(fn)

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    (error,) = caught.value.exceptions
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == fn.__name__
