"""Async functions that skip their own coroutine in native tasks still are what they seem to be."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import aevent

Run = Callable[..., Any]

FUNCTIONS = [aevent.sleep, aevent.sleep_forever, aevent.checkpoint]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_they_are_async_functions_to_whoever_asks(function: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(function)
    assert asyncio.iscoroutinefunction(function)
    assert function.__doc__
    assert repr(function).startswith(f"<function {function.__name__} at ")
    assert getattr(__import__("aevent"), function.__name__) is function


def test_the_signature_is_the_functions() -> None:
    assert list(inspect.signature(aevent.sleep).parameters) == ["seconds"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_they_are_copied_and_pickled_by_name(function: Callable[..., Any]) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function
    assert weakref.ref(function)() is function


def test_a_sleep_that_nobody_awaits_warns() -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="coroutine 'sleep' was never awaited"):
            aevent.sleep(1)
        with pytest.warns(RuntimeWarning, match="coroutine 'checkpoint' was never awaited"):
            aevent.checkpoint()

    aevent.run(main)


def test_what_they_return_can_be_handled_as_a_coroutine() -> None:
    async def main() -> None:
        pause = aevent.sleep(10)
        assert isinstance(pause, collections.abc.Coroutine)
        with pytest.raises(KeyError, match="thrown"):
            pause.throw(KeyError("thrown"))
        aevent.sleep(10).close()
        pause = aevent.checkpoint()
        await pause
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await pause

    aevent.run(main)


@pytest.mark.parametrize("backend", ["native", "asyncio", "uvloop", "trio"])
def test_the_arguments_are_checked_where_it_is_awaited(
    run_on: Callable[[str], Run], backend: str
) -> None:
    async def main() -> None:
        for seconds in (-1, -0.5, float("nan")):
            pause = aevent.sleep(seconds)
            with pytest.raises(ValueError, match="must be a non-negative number"):
                await pause
        with pytest.raises(TypeError):
            await aevent.sleep()  # type: ignore[call-arg]
        await aevent.sleep(seconds=0)
        await aevent.sleep(True)

    run_on(backend)(main)


def test_a_sleep_that_is_given_up_leaves_no_timer() -> None:
    async def main() -> int:
        pause = aevent.sleep(1000)
        # A step of its own, as the one who awaits makes it.
        assert next(iter(pause.__await__())) is None
        before: int = aevent._core.statistics()["timers"]
        pause.close()
        del pause
        gc.collect()
        after: int = aevent._core.statistics()["timers"]
        return before - after

    assert aevent.run(main) == 1


def test_they_are_spawned_as_the_async_functions_they_are() -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(aevent.checkpoint)
            group.spawn(aevent.sleep, 0)
            group.spawn(aevent.sleep_forever).cancel()

    aevent.run(main)
