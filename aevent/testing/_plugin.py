"""The pytest plugin, where it is used: which tests run in tasks, and on which backends."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .. import _run
from .._backend import BACKENDS
from .._exceptions import AeventError
from .._setup import setup
from . import _fixtures, _running
from ._test_loop import TestLoop
from ._test_loops import open_test_loop
from ._timeouts import Timeout

#: Markers of plugins that run async tests themselves.
FOREIGN = ("anyio", "asyncio", "trio")
#: The option of each that has it take all async tests.
_FOREIGN_MODES = (("anyio_mode", "auto"), ("asyncio_mode", "auto"), ("trio_mode", True))

#: Seconds that a loop has to end, if there is no other limit.
CLOSING_TIME = 30.0

_backend_key = pytest.StashKey[str]()


class Plugin:
    """What the hooks do. One for each run of pytest."""

    def __init__(self, config: pytest.Config, names: str, where: str) -> None:
        self._config = config
        #: What was asked for; none if that is left to markers.
        self.backends = _check_backends(names.split(","), where) if names else []
        self._mode = config.getini("aevent_mode") or ("auto" if self.backends else "strict")
        timeout = config.known_args_namespace.aevent_timeout or config.getini("aevent_timeout")
        self._timeout = _check_timeout(timeout, "--aevent-timeout") if timeout else None
        #: The one of the last test that was ours.
        self.backend: str | None = None
        self._loop: TestLoop | None = None
        #: How many fixtures and tests use it.
        self._leases = 0
        #: What ends a fixture that was made in a loop and may outlast a test, in their order.
        self._fixtures: dict[pytest.FixtureDef[Any], Callable[[], object]] = {}
        self._item: pytest.Item | None = None
        _set_up(self.backends, config.getini("aevent_exclude"))

    def register_fixtures(self) -> None:
        # After those of other plugins: pytest-trio has some by the same names.
        self._config.pluginmanager.register(_fixtures, "aevent-fixtures")

    # --- which tests ---

    def backends_of(self, node: pytest.Collector | pytest.Item, function: Any) -> list[str]:
        """On which backends a test function, or a class of tests, runs; none: it is not ours."""
        marker = _marker(node, function, "aevent")
        if marker is not None:
            _check_marker(marker)
            if "backend" in marker.kwargs:
                return _marked_backends(marker.kwargs["backend"])
            return self.backends or [_run.default_backend()]
        if self._mode != "auto":
            return []
        if not _is_async(function):
            return self.backends
        if any(_marker(node, function, name) is not None for name in FOREIGN):
            return []
        if any(_is_mode(self._config, *mode) for mode in _FOREIGN_MODES):
            return []
        return self.backends or [_run.default_backend()]

    def backend_of(self, item: pytest.Item) -> str | None:
        """The one that a test runs on, or `None`."""
        for node in item.listchain():
            if _backend_key in node.stash:
                return node.stash[_backend_key]
        if not isinstance(item, pytest.Function):
            return None
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "aevent_backend" in callspec.params:
            backend: str = callspec.params["aevent_backend"]
            return backend
        backends = [] if _is_of_unittest(item) else self.backends_of(item, item.function)
        return backends[0] if backends else None

    def timeout_of(self, item: pytest.Item) -> float | None:
        for marker in item.iter_markers("aevent"):
            if "timeout" in marker.kwargs:
                timeout = marker.kwargs["timeout"]
                return None if timeout is None else _check_timeout(timeout, "the aevent marker")
        return self._timeout

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        backends = self.backends_of(metafunc.definition, metafunc.function)
        # A test that runs on one backend only keeps its name and its place.
        if len(backends) > 1:
            metafunc.fixturenames.insert(0, "aevent_backend")
            metafunc.parametrize("aevent_backend", backends, indirect=True, scope="session")

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> Generator[None, Any, Any]:
        """Classes of unittest know no parameters: there is one for each backend."""
        result = yield
        if not _is_unittest(obj):
            return result
        backends = self.backends_of(collector, obj)
        nodes = result if isinstance(result, list) else [result]
        return [
            each
            for node in nodes
            for each in (
                _on_each(node, obj, backends) if isinstance(node, pytest.Class) else [node]
            )
        ]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if hasattr(getattr(item, "function", None), "hypothesis") and "aevent_backend" in (
                getattr(getattr(item, "callspec", None), "params", ())
            ):
                # Hypothesis asks for this marker, and else takes the backends for an accident.
                item.add_marker(pytest.mark.parametrize("aevent_backend", ()))

    # --- the loop ---

    @contextmanager
    def lease(self, backend: str) -> Iterator[TestLoop]:
        """The loop of the backend, for as long as somebody uses it."""
        __tracebackhide__ = True
        loop = self._loop
        if loop is not None and loop.is_abandoned:
            self._loop, self._leases = None, 0
            loop = None
        if loop is None:
            loop = self._loop = open_test_loop(backend)
        elif loop.backend != backend:
            raise AeventError(
                f"a loop of the backend {loop.backend!r} is in use, so {backend!r} cannot be run"
            )
        self._leases += 1
        try:
            yield loop
        finally:
            if self._loop is loop:
                self._leases -= 1
                if self._leases == 0:
                    self._loop = None
                    loop.close(functools.partial(Timeout, self._closing_time(), "the loop's end"))

    def run(self, loop: TestLoop, call: Callable[[], Any], **options: Any) -> Any:
        """`loop.run` with the time limit of the running test."""
        __tracebackhide__ = True
        item = self._item
        limit = None if item is None else self.timeout_of(item)
        if limit is None or item is None:
            return loop.run(call, **options)
        return loop.run(call, watched=functools.partial(Timeout, limit, item.nodeid), **options)

    def _closing_time(self) -> float:
        limit = None if self._item is None else self.timeout_of(self._item)
        return CLOSING_TIME if limit is None else limit

    def _end_fixtures(self) -> None:
        while self._fixtures:
            self._fixtures.popitem()[1]()

    # --- one test ---

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, Any, Any]:
        self._item = item
        try:
            return (yield)
        finally:
            self._item = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        __tracebackhide__ = True
        backend = self.backend_of(item)
        if backend is not None:
            if self.backend != backend:
                self._end_fixtures()
                self.backend = backend
            item.stash[_lease_key] = _Lease(self, backend)
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        __tracebackhide__ = True
        lease = item.stash.get(_lease_key, None)
        if lease is None or not isinstance(item, pytest.Function):
            yield
            return
        with _running.in_task(self, lease.loop(), item):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, None, None]:
        __tracebackhide__ = True
        try:
            yield
        finally:
            lease = item.stash.get(_lease_key, None)
            if lease is not None:
                del item.stash[_lease_key]
                lease.end()

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        __tracebackhide__ = True
        lease = pyfuncitem.stash.get(_lease_key, None)
        return None if lease is None else _running.call_async(self, lease.loop(), pyfuncitem)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        __tracebackhide__ = True
        item = self._item
        lease = None if item is None else item.stash.get(_lease_key, None)
        in_task = lease is not None and _running.belongs_in_task(fixturedef)
        if (in_task and fixturedef.scope != "function") or fixturedef.argname == "aevent_backend":
            self._fixtures.pop(fixturedef, None)
            self._fixtures[fixturedef] = functools.partial(fixturedef.finish, request=request)  # type: ignore[arg-type]
        if lease is None or not in_task:
            return (yield)
        with _running.fixture_in_task(self, lease.backend, fixturedef, request):
            return (yield)


class _Lease:
    """The loop of a test, from its first use to the end of the test."""

    def __init__(self, plugin: Plugin, backend: str) -> None:
        self._plugin = plugin
        self.backend = backend
        self._manager: Any = None
        self._loop: TestLoop | None = None

    def loop(self) -> TestLoop:
        if self._loop is None:
            self._manager = self._plugin.lease(self.backend)
            self._loop = self._manager.__enter__()
        return self._loop

    def end(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.__exit__(None, None, None)


_lease_key = pytest.StashKey[_Lease]()


def _set_up(backends: list[str], exclude: list[str]) -> None:
    if _run.chosen_backend is None:
        try:
            setup(backends[0] if backends else None, exclude=exclude)
        except AeventError as error:
            raise pytest.UsageError(str(error)) from None
    # A program that calls setup() itself finds it done, whatever it says.
    _run.backend_is_given = True


def _check_backends(names: list[str], where: str) -> list[str]:
    backends = list(dict.fromkeys(name.strip() for name in names))
    for name in backends:
        if name not in BACKENDS:
            raise pytest.UsageError(
                f"{where}: there is no backend {name!r}: choose from "
                f"{', '.join(map(repr, BACKENDS))}"
            )
    return backends


def _check_marker(marker: pytest.Mark) -> None:
    unknown = [*map(repr, marker.args), *(set(marker.kwargs) - {"backend", "timeout"})]
    if unknown:
        pytest.fail(
            f"aevent marker: it has no argument {unknown[0]}: it takes backend= and timeout=, as "
            'in @pytest.mark.aevent(backend="trio", timeout=5)',
            pytrace=False,
        )


def _marked_backends(names: Any) -> list[str]:
    if names is None:
        return []
    chosen = [names] if isinstance(names, str) else names
    if not isinstance(chosen, (list, tuple)) or not all(isinstance(name, str) for name in chosen):
        pytest.fail(
            f"aevent marker: backend= takes a name, a list of names or None, not {names!r}",
            pytrace=False,
        )
    if not chosen:
        pytest.fail(
            f"aevent marker: backend={names!r} names no backend: leave it out for those that "
            "pytest was given, or say backend=None for a test that is to run in no task",
            pytrace=False,
        )
    try:
        return _check_backends(list(chosen), "aevent marker")
    except pytest.UsageError as error:
        pytest.fail(str(error), pytrace=False)


def _check_timeout(timeout: Any, where: str) -> float:
    try:
        seconds = float(timeout)
        if not 0 < seconds < 1e7:
            raise ValueError
    except (TypeError, ValueError):
        raise pytest.UsageError(
            f"{where}: the timeout must be a positive number of seconds, not {timeout!r}"
        ) from None
    return seconds


def _is_mode(config: pytest.Config, name: str, value: object) -> bool:
    if config.getoption(name, default=None) == value:
        return True
    try:
        return bool(config.getini(name) == value)
    except (KeyError, ValueError):
        return False  # that plugin is not there


def _marker(node: pytest.Collector | pytest.Item, function: Any, name: str) -> pytest.Mark | None:
    """The marker of a test, or of a class that is no node yet."""
    marks = getattr(function, "pytestmark", ())
    each: Any = marks if isinstance(marks, (list, tuple)) else (marks,)
    for mark in each:
        if getattr(mark, "name", None) == name:
            found: pytest.Mark = getattr(mark, "mark", mark)
            return found
    return node.get_closest_marker(name)


def _is_async(function: Any) -> bool:
    inner = getattr(function, "hypothesis", None)
    if inner is not None:
        function = inner.inner_test
    return inspect.iscoroutinefunction(inspect.unwrap(function))


def _on_each(node: pytest.Class, obj: object, backends: list[str]) -> list[pytest.Class]:
    """A class of tests for each backend."""
    if not backends:
        return [node]
    nodes: list[Any] = [node]
    if len(backends) > 1:
        assert node.parent is not None
        nodes = [type(node).from_parent(node.parent, name=f"{node.name}[{n}]") for n in backends]
    for each, backend in zip(nodes, backends, strict=True):
        each.obj = obj
        each.stash[_backend_key] = backend
    return nodes


def _is_of_unittest(item: pytest.Function) -> bool:
    return item.cls is not None and issubclass(item.cls, unittest.TestCase)


def _is_unittest(obj: object) -> bool:
    """Whether it is a class of synchronous tests: the others run a loop of their own."""
    return (
        isinstance(obj, type)
        and issubclass(obj, unittest.TestCase)
        and not issubclass(obj, unittest.IsolatedAsyncioTestCase)
    )
