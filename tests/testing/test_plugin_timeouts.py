"""A test that takes too long is told so where it waits, and cleans up; the run goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

Run = Callable[..., pytest.RunResult]

ALL = "--aevent-backend=native,asyncio,trio"


def test_waits_end_and_clean_up(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import socket, threading, pytest, aevent

    LOG = []

    def test_sync():
        try:
            threading.Event().wait()
        finally:
            LOG.append(1)

    async def test_async():
        try:
            await aevent.sleep_forever()
        finally:
            LOG.append(1)

    async def test_group():
        async with aevent.TaskGroup() as tg:
            tg.spawn(threading.Event().wait, name="the waiter")
            try:
                await aevent.sleep_forever()
            finally:
                LOG.append(1)

    @pytest.mark.aevent(timeout=100)
    def test_all_have_ended(aevent_backend):
        assert LOG == [1, 1, 1]
        LOG.clear()
    """,
        ALL,
        "--aevent-timeout=0.5",  # enough to begin, on a machine with much else to do
    )
    result.assert_outcomes(failed=9, passed=3)
    result.stdout.fnmatch_lines(["*Timeout: more than 0.5 seconds", "*::test_sync* hangs. Tasks:"])
    # Who waits where, once for each backend.
    parts = result.stdout.str().split("::test_group")
    trees = [part for part in parts if part.partition("\n")[0].endswith(" hangs. Tasks:")]
    assert len(trees) == 3
    for tree in trees:
        assert "the waiter (green, parked)" in tree, tree
        assert "await aevent.sleep_forever()" in tree, tree


def test_code_that_computes_is_ended_too(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import pytest

    @pytest.mark.aevent(timeout=0.1)
    def test_sync():
        while True:
            pass

    @pytest.mark.aevent(timeout=0.1)
    async def test_async():
        while True:
            pass
    """,
        ALL,
    )
    result.assert_outcomes(failed=6)


def test_fixtures_have_the_same_limit(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import time, pytest, aevent

    LOG = []

    @pytest.fixture
    def outer():
        yield
        LOG.append("outer")

    @pytest.fixture
    async def hangs_before(outer):
        await aevent.sleep_forever()

    @pytest.fixture
    def hangs_after(outer):
        yield
        time.sleep(1000)

    @pytest.fixture
    async def hangs_before_yield(outer):
        await aevent.sleep_forever()
        yield

    def test_one(hangs_before): pass
    def test_two(hangs_after): pass
    async def test_three(hangs_before_yield): pass

    @pytest.mark.aevent(timeout=None)
    def test_ended():
        assert LOG == ["outer"] * 3
        LOG.clear()
    """,
        ALL,
        "--aevent-timeout=0.5",
    )
    result.assert_outcomes(passed=6, errors=9)


def test_what_does_not_react_is_left_behind(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import time, pytest, aevent
    from aevent.testing import _timeouts
    _timeouts.GRACE = 0.1

    @pytest.mark.aevent(timeout=0.1)
    def test_stubborn():
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass

    def test_next():
        time.sleep(0.001)
    """,
        "--aevent-backend=native",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*was told to end, and does not. Tasks:*"])


def test_a_test_that_ends_just_when_it_is_to_be_told(run_pytest: Run) -> None:
    """The signal is not sent when nobody handles it any more: it would end the run."""
    result = run_pytest(
        """
    import time, pytest, aevent
    from aevent.testing import _timeouts

    late = []
    send = _timeouts._pthread_kill

    def send_late(*args):
        late.append(True)
        time.sleep(0.3)
        send(*args)

    _timeouts._pthread_kill = send_late

    @pytest.mark.aevent(timeout=0.01)
    def test_it():
        with aevent.native():
            while not late:
                time.sleep(0.001)

    def test_next():
        time.sleep(0.001)
    """,
        ALL,
    )
    result.assert_outcomes(passed=6)


@pytest.mark.parametrize("timeout", ["0", "-1", "soon"])
def test_a_limit_that_is_none(run_pytest: Run, timeout: str) -> None:
    result = run_pytest("def test_it(): pass", ALL, f"--aevent-timeout={timeout}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*timeout must be a positive number of seconds, not *"])


@pytest.mark.parametrize("backend", ["native", "asyncio"])
def test_threads_that_do_not_end_are_left_behind(run_pytest: Run, backend: str) -> None:
    result = run_pytest(
        """
    import threading, time, pytest, aevent
    from aevent.testing import _plugin
    _plugin.CLOSING_TIME = 0.5

    def stubborn():
        with aevent.CancelScope(shield=True):
            time.sleep(1000)

    def test_leaves():
        threading.Thread(target=stubborn, name="the stubborn").start()

    def test_next():
        time.sleep(0.001)
    """,
        f"--aevent-backend={backend}",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left running do not end: the stubborn*"])
