"""Async iterators in synchronous code: `aevent.async_iter`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import aevent
from tests.backends.contract import Boom, Run, in_each_kind_of_task


async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        await aevent.sleep(0)
        yield number


def test_a_loop_over_async_iter(run: Run) -> None:
    class Plain:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> int:
            await aevent.checkpoint()
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    def check() -> None:
        assert list(aevent.async_iter(count(4))) == [0, 1, 2, 3]
        assert list(aevent.async_iter(Plain())) == [2, 1, 0]

    in_each_kind_of_task(run, check)


def test_async_iter_of_a_generator_is_a_generator(run: Run) -> None:
    log: list[Any] = []

    async def echo() -> Any:
        value = None
        try:
            while True:
                await aevent.checkpoint()
                try:
                    value = yield value
                except Boom:
                    value = "caught"
        finally:
            await aevent.checkpoint()
            log.append("closed")

    def delegate(inner: Any) -> Any:
        yield from inner

    def check() -> None:
        generator = delegate(aevent.async_iter(echo()))
        assert next(generator) is None
        assert generator.send(5) == 5
        assert generator.throw(Boom()) == "caught"
        generator.close()
        assert list(generator) == []

    in_each_kind_of_task(run, check)
    assert log == ["closed"] * 4


def test_an_async_iterators_cancellation_reaches_its_loop(run: Run) -> None:
    log: list[str] = []

    async def stuck() -> AsyncIterator[int]:
        yield 1
        try:
            await aevent.sleep_forever()
        finally:
            log.append("finally")

    def check() -> None:
        with aevent.move_on_after(0.001) as scope:
            assert [1 for _ in aevent.async_iter(stuck())] == []
        assert scope.cancelled_caught

    in_each_kind_of_task(run, check)
    assert log == ["finally"] * 4


def test_async_iter_of_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"async_iter\(\) expects an asynchronous iterable"):
        aevent.async_iter([1])  # type: ignore[arg-type]
