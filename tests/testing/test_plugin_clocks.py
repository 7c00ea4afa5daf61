"""The fixtures `mock_clock` and `autojump_clock`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

Run = Callable[..., pytest.RunResult]


def test_hours_pass_at_once(passes: Run) -> None:
    result = passes(
        """
    import queue, threading, time, pytest, aevent

    @pytest.fixture
    def slow(autojump_clock):
        time.sleep(3600)

    def test_sync(slow, autojump_clock):
        began = time.monotonic()
        time.sleep(3600)
        with pytest.raises(queue.Empty):
            queue.Queue().get(timeout=60)
        assert time.monotonic() - began == pytest.approx(3660)

    async def test_async(autojump_clock):
        began = aevent.current_time()
        with aevent.move_on_after(60):
            await aevent.sleep(3600)
        assert aevent.current_time() - began == pytest.approx(60)

    async def test_by_hand(mock_clock):
        woken = []

        async def sleep():
            await aevent.sleep(10)
            woken.append(1)

        async with aevent.TaskGroup() as tg:
            tg.spawn(sleep)
            await aevent.testing.wait_all_tasks_blocked()
            assert not woken
            mock_clock.jump(10)

    def test_afterwards():
        began = time.time()
        time.sleep(0.001)
        assert time.time() - began < 100
    """,
        "--aevent-backend=native,asyncio,trio",
        plugins=("trio",),  # it has fixtures by these names
        count=12,
    )
    assert result.duration < 100


def test_where_there_is_no_such_clock(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import pytest

    @pytest.mark.aevent(backend=None)
    def test_outside(autojump_clock):
        pass
    """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a mock clock is for tests that run in a task*"])
