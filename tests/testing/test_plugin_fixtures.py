"""Fixtures of every kind and scope are made and ended in the loop of the tests that use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

Run = Callable[..., pytest.RunResult]

ALL = "--aevent-backend=native,asyncio,trio"


def test_fixtures_and_tests_share_task_thread_and_context(passes: Run) -> None:
    passes(
        """
    import contextvars, threading, pytest, aevent
    from aevent import _core

    variable = contextvars.ContextVar("variable", default=())
    LOG = []

    def task():
        return (_core.get_host() and _core.get_host().task_identity()) or _core.current_task()

    @pytest.fixture(scope="session")
    async def coroutine(aevent_backend):
        LOG.append("made for " + aevent_backend)
        await aevent.sleep(0)
        return task()

    @pytest.fixture(scope="module")
    async def scope(coroutine):
        assert coroutine == task()
        with aevent.CancelScope() as scope:
            yield scope

    @pytest.fixture
    async def group(scope):
        async with aevent.TaskGroup() as tg:
            token = variable.set(("group",))
            yield tg
            variable.reset(token)
            tg.cancel_scope.cancel()

    @pytest.fixture(scope="class")
    def green():
        assert threading.current_thread() is threading.main_thread()
        lock = threading.RLock()
        with lock, aevent.CancelScope() as scope:
            yield lock, scope
            lock.release()
            lock.acquire()

    @pytest.fixture
    def sets():
        token = variable.set(variable.get() + ("sync",))
        yield
        variable.reset(token)

    async def test_async(coroutine, group, sets):
        assert coroutine == task()
        assert variable.get() == ("group", "sync")
        event = aevent.Event()
        async with aevent.TaskGroup() as tg:
            tg.spawn(event.wait)
            group.spawn(event.set)

    def test_sync(green, group, sets):
        lock, scope = green
        assert variable.get() == ("group", "sync")
        lock.release()
        lock.acquire()
        assert not scope.cancel_called
        group.spawn(aevent.sleep_forever)

    def test_last(green):
        assert LOG.count("made for " + LOG[-1].split()[-1]) == 1
    """,
        ALL,
        count=9,
    )


def test_one_loop_for_a_scope_and_a_new_one_without(passes: Run) -> None:
    passes(
        """
    import threading, time, pytest
    from aevent import _core

    @pytest.fixture(scope="class")
    def ticks():
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.wait(0.001):
                ticks.append(1)

        thread = threading.Thread(target=tick)
        thread.start()
        yield ticks
        stop.set()
        thread.join()

    tasks = []

    class TestShared:
        def test_one(self, ticks):
            tasks.append(_core.current_task())
            while len(ticks) < 3:
                time.sleep(0.001)

        def test_two(self, ticks):
            tasks.append(_core.current_task())
            had = len(ticks)
            while len(ticks) < had + 3:
                time.sleep(0.001)

    def test_alone(ticks):
        tasks.append(_core.current_task())
        one, two, alone = tasks[-3:]
        assert one == two != alone
    """,
        ALL,
        count=9,
    )


def test_teardown_runs_whatever_happens(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import time, pytest, aevent

    LOG = []

    @pytest.fixture
    async def outer():
        try:
            yield
        finally:
            await aevent.sleep(0)
            LOG.append("outer")

    @pytest.fixture
    def inner(outer):
        try:
            yield
        finally:
            time.sleep(0)
            LOG.append("inner")

    @pytest.fixture
    def ended():
        LOG.clear()
        yield
        assert LOG == ["inner", "outer"]

    async def test_fails(ended, inner):
        assert False

    def test_is_cancelled(ended, inner):
        raise aevent.Cancelled

    @pytest.fixture
    async def fails_after(inner):
        yield
        raise ValueError("after")

    def test_teardown_fails(ended, fails_after):
        pass

    @pytest.fixture
    async def fails_before(inner):
        raise ValueError("before")
        yield

    async def test_setup_fails(ended, fails_before):
        pass

    @pytest.fixture
    async def group(inner):
        async with aevent.TaskGroup() as tg:
            yield tg

    async def test_background_task_fails(ended, group):
        group.spawn(lambda: 1 / 0)
        await aevent.sleep(10)
    """,
        ALL,
    )
    # Setting up fails once, tearing down twice, for each backend.
    outcomes = result.parseoutcomes()
    assert outcomes["errors"] == 9, outcomes
    assert outcomes["failed"] + outcomes.get("passed", 0) == 12, outcomes
    result.stdout.fnmatch_lines(
        ["*ValueError: before", "*ZeroDivisionError*", "*ValueError: after"]
    )
    result.stdout.no_fnmatch_line("*assert * == *'inner'*")


def test_methods_parameters_and_requests_by_name(passes: Run) -> None:
    passes(
        """
    import pytest, aevent
    from aevent import _core

    @pytest.fixture(params=[1, 2])
    async def number(request):
        await aevent.sleep(0)
        return request.param

    @pytest.fixture
    async def by_name(request):
        return request.getfixturevalue("number")

    class TestMethods:
        @pytest.fixture(autouse=True)
        async def prepare(self, number):
            self.number = number
            yield
            assert self.number == number + 1

        async def test_async(self, number, request):
            assert self.number == number == request.getfixturevalue("by_name")
            self.number += 1

        def test_sync(self, number, request):
            assert self.number == number == request.getfixturevalue("by_name")
            self.number += 1

    class TestOld:
        @classmethod
        def setup_class(cls):
            cls.made_in = _core.task_kind()

        def setup_method(self):
            assert _core.task_kind() == self.made_in == "green"

        def test_it(self):
            assert _core.task_kind() == "green"
    """,
        ALL,
        count=15,
    )


def test_a_fixture_that_yields_twice_or_never(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import pytest

    @pytest.fixture
    async def twice():
        yield
        yield

    @pytest.fixture
    def twice_sync():
        yield
        yield

    @pytest.fixture
    async def never():
        if False:
            yield

    def test_twice(twice): pass
    async def test_twice_sync(twice_sync): pass
    def test_never(never): pass
    """,
        "--aevent-backend=native",
    )
    result.assert_outcomes(passed=2, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*twice has more than one 'yield'*",
            "*twice_sync has more*",
            "*never did not yield a value",
        ]
    )


def test_fixtures_of_pytest_last_as_long_as_ever(passes: Run) -> None:
    passes(
        """
    import sys, time

    def test_capture(capsys, tmp_path, monkeypatch, caplog, recwarn):
        print("x")
        time.sleep(0.001)
        assert capsys.readouterr().out == "x\\n"
        (tmp_path / "file").write_text("x")
        monkeypatch.setattr(sys, "something", 1, raising=False)

    async def test_async(capfd, tmp_path_factory):
        print("y")
        assert capfd.readouterr().out == "y\\n"
    """,
        ALL,
        count=6,
    )
