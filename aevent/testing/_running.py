"""Running tests and fixtures in the tasks of a test loop."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ._test_loop import TestLoop

if TYPE_CHECKING:
    from ._plugin import Plugin

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

#: Packages whose fixtures need no task, and last for the whole run.
_OUTSIDE = ("_pytest", "anyio", "hypothesis", "pytest_asyncio", "pytest_trio", "xdist")


# --- tests ---


@contextmanager
def in_task(plugin: Plugin, loop: TestLoop, item: pytest.Function) -> Iterator[None]:
    """Has a synchronous test run in a green thread, and all that other plugins do around it."""
    inner = getattr(item.obj, "hypothesis", None)
    is_async = inner is None and inspect.iscoroutinefunction(item.obj)
    runtest = functools.partial(pytest.Function.runtest, item) if is_async else item.runtest
    if not is_async:
        runtest = functools.partial(_run_sync, plugin, loop, runtest)
    # Of an async test it is pytest's own, which asks `call_async`, and nobody else's.
    setattr(item, "runtest", runtest)  # noqa: B010 - a method
    try:
        if inner is None or not inspect.iscoroutinefunction(inner.inner_test):
            yield
            return
        function = inner.inner_test
        # Once for each example.
        inner.inner_test = functools.wraps(function)(
            lambda *args, **kwargs: loop.run(
                functools.partial(function, *args, **kwargs), is_async=True
            )
        )
        try:
            yield
        finally:
            inner.inner_test = function
    finally:
        delattr(item, "runtest")


def _run_sync(plugin: Plugin, loop: TestLoop, runtest: Callable[[], None]) -> None:
    __tracebackhide__ = True
    plugin.run(loop, runtest)


def call_async(plugin: Plugin, loop: TestLoop, item: pytest.Function) -> object | None:
    """Runs the test if it is async; else `None`."""
    __tracebackhide__ = True
    if not inspect.iscoroutinefunction(item.obj):
        return None
    names = inspect.signature(item.obj).parameters
    args = {name: item.funcargs[name] for name in names if name in item.funcargs}
    try:
        plugin.run(loop, functools.partial(item.obj, **args), is_async=True, scoped=True)
    except BaseExceptionGroup as group:
        _raise_only(group)
        raise
    return True


def _raise_only(group: BaseExceptionGroup[BaseException]) -> None:
    """A task group may have wrapped what is not an error but a message to pytest."""
    messages = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)
    ends = (KeyboardInterrupt, SystemExit, pytest.exit.Exception)
    leaves = list(_leaves(group))
    for error in leaves:
        if isinstance(error, ends) or (len(leaves) == 1 and isinstance(error, messages)):
            raise error from group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


# --- fixtures ---


def belongs_in_task(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether the fixture is to be made in a task, if that is where the test runs."""
    function = fixturedef.func
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    if fixturedef.argname == "aevent_backend":
        return False
    if function.__qualname__.startswith("UnitTestCase."):
        # setUpClass and setup_method are wrapped in fixtures of pytest's.
        return True
    module = getattr(function, "__module__", None) or ""
    if module == "_pytest.python":
        return "xunit" in fixturedef.argname
    return module.partition(".")[0] not in _OUTSIDE


@contextmanager
def fixture_in_task(
    plugin: Plugin,
    backend: str,
    fixturedef: pytest.FixtureDef[Any],
    request: pytest.FixtureRequest,
) -> Iterator[None]:
    """Has pytest make the fixture by a generator that makes it, and ends it, in a task."""
    function = fixturedef.func

    def make(**kwargs: Any) -> Generator[Any, None, None]:
        bound = _bound(function, request)
        with plugin.lease(backend) as loop:
            run = functools.partial(plugin.run, loop)
            if inspect.isasyncgenfunction(bound):
                yield from _async_generator(run, bound, kwargs)
            elif inspect.isgeneratorfunction(bound):
                yield from _generator(run, bound, kwargs)
            elif inspect.iscoroutinefunction(bound):
                yield run(functools.partial(bound, **kwargs), is_async=True, scoped=True)
            else:
                yield run(functools.partial(bound, **kwargs))

    fixture: Any = fixturedef
    fixture.func = make
    try:
        yield
    finally:
        fixture.func = function


def _bound(function: Any, request: pytest.FixtureRequest) -> Any:
    """A fixture that is a method is the test's instance's."""
    owner = getattr(function, "__self__", None)
    instance = request.instance
    if owner is None or isinstance(owner, type) or not isinstance(instance, type(owner)):
        return function
    return function.__func__.__get__(instance)


def _generator(run: Any, function: Any, kwargs: dict[str, Any]) -> Generator[Any, None, None]:
    generator = function(**kwargs)
    nothing = object()
    value = run(lambda: next(generator, nothing))
    if value is nothing:
        return
    yield value
    if run(lambda: next(generator, nothing)) is not nothing:
        _yields_twice(function)


def _async_generator(run: Any, function: Any, kwargs: dict[str, Any]) -> Generator[Any, None, None]:
    generator = function(**kwargs)
    nothing = object()

    async def step() -> Any:
        async for value in generator:
            return value
        return nothing

    value = run(step, is_async=True)
    if value is nothing:
        return
    yield value
    if run(step, is_async=True) is not nothing:
        _yields_twice(function)


def _yields_twice(function: Any) -> None:
    pytest.fail(f"the fixture function {function.__qualname__} has more than one 'yield'", False)
