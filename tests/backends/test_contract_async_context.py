"""Async context managers in synchronous code: `aevent.async_context`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import aevent
from tests.backends.contract import Boom, Run, in_each_kind_of_task


@asynccontextmanager
async def made_by(make: Callable[..., Any], *args: Any) -> AsyncIterator[Any]:
    """For what has to be made where the host's loop runs."""
    async with make(*args) as value:
        yield value


async def call(fn: Callable[..., Any], *args: Any) -> Any:
    """For what has to be called where the host's loop runs."""
    return fn(*args)


class Manager:
    def __init__(self, suppress: bool = False) -> None:
        self.suppress = suppress
        self.log: list[Any] = []

    async def __aenter__(self) -> str:
        await aevent.checkpoint()
        self.log.append("entered")
        return "value"

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        await aevent.checkpoint()
        self.log.append(kind)
        return self.suppress


def test_a_body_of_async_context(run: Run) -> None:
    def check() -> None:
        manager = Manager()
        with aevent.async_context(manager) as value:
            assert value == "value"
            assert manager.log == ["entered"]
            time.sleep(0)
        assert manager.log == ["entered", None]

    in_each_kind_of_task(run, check)


def test_an_exception_in_a_body_of_async_context(run: Run) -> None:
    def check() -> None:
        manager = Manager()
        error = Boom()
        with pytest.raises(Boom) as caught:
            with aevent.async_context(manager):
                raise error
        assert caught.value is error
        assert manager.log == ["entered", Boom]
        with aevent.async_context(Manager(suppress=True)):
            raise Boom

    in_each_kind_of_task(run, check)


def test_an_async_generators_context(run: Run) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[int]:
        await aevent.checkpoint()
        try:
            yield 5
        except Boom:
            log.append("caught")
        finally:
            await aevent.checkpoint()
            log.append("finally")

    def check() -> None:
        with aevent.async_context(manager()) as value:
            assert value == 5
            raise Boom

    in_each_kind_of_task(run, check)
    assert log == ["caught", "finally"] * 4


def test_a_cancelled_body_of_async_context_leaves_it(run: Run) -> None:
    def check() -> None:
        manager = Manager()
        with aevent.CancelScope() as scope:
            with aevent.async_context(manager):
                scope.cancel()
                time.sleep(10)
        assert scope.cancelled_caught
        # `__aexit__` itself was cancelled at its checkpoint.
        assert manager.log == ["entered"]

    in_each_kind_of_task(run, check)


def test_async_context_sees_the_hosts_cancellation(run: Run, backend: str) -> None:
    seen: list[Any] = []

    class Asks:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
            expected = aevent.Cancelled
            if aevent._core.get_host() is not None:  # type: ignore[attr-defined]
                expected = anyio.get_cancelled_exc_class()
            seen.append(issubclass(kind, expected))

    def check() -> None:
        with aevent.move_on_after(0.001):
            with aevent.async_context(Asks()):  # type: ignore[arg-type]
                time.sleep(10)

    in_each_kind_of_task(run, check)
    assert seen == [True] * 4


def test_a_thread_that_is_cancelled_while_it_enters_an_async_context(run: Run) -> None:
    """What it has entered in spite of that is left again, by the thread's own exception."""
    log: list[Any] = []

    class Stubborn(Manager):
        async def __aenter__(self) -> str:
            with aevent.CancelScope(shield=True):
                await aevent.sleep(0.001)
            return "value"

    def body() -> None:
        try:
            with aevent.async_context(Stubborn()):
                try:
                    aevent.await_(aevent.sleep(0))
                finally:
                    log.append("body")
        except aevent.Cancelled:
            log.append("cancelled")
            raise

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(body)
            await aevent.sleep(0)
            scope.cancel()

    run(main)
    assert log == ["body", "cancelled"]


def test_a_task_group_by_async_context(run: Run) -> None:
    def check() -> None:
        log: list[int] = []
        with aevent.async_context(aevent.TaskGroup()) as group:
            group.spawn(log.append, 1)
            time.sleep(0.001)
            group.spawn(log.append, 2)
        assert sorted(log) == [1, 2]

    in_each_kind_of_task(run, check)


def test_a_failing_task_of_a_hosts_group_cancels_the_body(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")

    async def fail() -> None:
        await anyio.sleep(0.001)
        raise Boom

    def check() -> None:
        with pytest.raises(BaseException) as caught:
            with aevent.async_context(made_by(anyio.create_task_group)) as group:
                aevent.await_(call(group.start_soon, fail))
                time.sleep(10)
        assert getattr(caught.value, "exceptions", ())[0].__class__ is Boom
        time.sleep(0)

    in_each_kind_of_task(run, check)


def test_contexts_of_a_host_within_each_other(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")

    def check() -> None:
        with pytest.raises(BaseException) as caught:
            with aevent.async_context(made_by(anyio.create_task_group)) as outer:
                with aevent.async_context(made_by(anyio.create_task_group)):
                    aevent.await_(call(outer.cancel_scope.cancel))
                    with pytest.raises(BaseException) as body:
                        time.sleep(10)
                    # And again: a cancellation lasts until its scope is left.
                    time.sleep(10)
                raise AssertionError("the outer scope has cancelled this, too")
            assert outer.cancel_scope.cancel_called
            assert body.type.__name__.startswith("Cancelled")
            raise Boom
        assert caught.type is Boom
        time.sleep(0)

    in_each_kind_of_task(run, check)


def test_asyncios_timeout_by_async_context() -> None:
    asyncio = pytest.importorskip("asyncio")
    if not hasattr(asyncio, "timeout"):
        pytest.skip("Python 3.11 has the first")

    def check() -> None:
        for body in (
            lambda: time.sleep(10),
            lambda: aevent.await_(aevent.sleep_forever()),
            lambda: aevent.await_(asyncio.sleep(10)),
        ):
            with pytest.raises(TimeoutError):
                with aevent.async_context(made_by(asyncio.timeout, 0.002)):
                    body()
            time.sleep(0)
        with aevent.async_context(made_by(asyncio.timeout, 10)):
            time.sleep(0)
        aevent.await_(asyncio.sleep(0))

    def run(fn: Any) -> None:
        aevent.run(fn, backend="asyncio")

    in_each_kind_of_task(run, check)


def test_async_context_of_something_else_is_a_type_error(run: Run) -> None:
    with pytest.raises(TypeError, match=r"async_context\(\) expects an asynchronous context"):
        aevent.async_context(object())  # type: ignore[arg-type]
