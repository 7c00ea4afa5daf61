"""unittest, Hypothesis, xdist, the keyboard, and other plugins that run async tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

Run = Callable[..., pytest.RunResult]

ALL = "--aevent-backend=native,asyncio,trio"


def test_classes_of_unittest(passes: Run) -> None:
    result = passes(
        """
    import threading, time, unittest
    from aevent import _core

    LOG = []

    class Test(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            assert _core.task_kind() == "green"
            cls.task = _core.current_task()
            LOG.append(cls)

        @classmethod
        def tearDownClass(cls):
            assert _core.task_kind() == "green"
            LOG.remove(cls)

        def setUp(self):
            assert LOG == [Test]
            self.event = threading.Event()
            self.thread = threading.Thread(target=self.event.wait)
            self.thread.start()

        def tearDown(self):
            self.event.set()
            self.thread.join()

        def test_it(self):
            assert _core.current_task() == self.task
            time.sleep(0.001)
            assert self.thread.is_alive()

        def test_sub(self):
            with self.subTest(1):
                time.sleep(0)

    class TestAsync(unittest.IsolatedAsyncioTestCase):
        async def test_left_alone(self):
            assert not _core.in_task()
    """,
        ALL,
        "-v",
        count=7,
    )
    result.stdout.fnmatch_lines(["*::Test?trio?::test_it PASSED*"])


def test_hypothesis(run_pytest: Run) -> None:
    pytest.importorskip("hypothesis")
    result = run_pytest(
        """
    import time, aevent
    from aevent import _core
    from hypothesis import given, settings, strategies as st

    seen = []

    @settings(max_examples=5, deadline=None, database=None)
    @given(number=st.integers())
    async def test_async(number, aevent_backend):
        await aevent.sleep(0)
        host = _core.get_host()
        assert (host.name if host else "native") == aevent_backend
        seen.append(number)

    @settings(max_examples=5, deadline=None, database=None)
    @given(st.integers())
    def test_sync(number):
        time.sleep(0)
        assert _core.task_kind() == "green"

    @settings(max_examples=20, deadline=None, database=None)
    @given(st.integers())
    async def test_fails(number):
        await aevent.sleep(0)
        assert number < 10

    class Test:
        @settings(max_examples=5, deadline=None, database=None)
        @given(number=st.integers())
        async def test_method(self, number):
            await aevent.sleep(0)

    def test_seen():
        assert len(seen) >= 5
        seen.clear()
    """,
        ALL,
        plugins=("hypothesispytest",),
    )
    result.assert_outcomes(passed=12, failed=3)
    result.stdout.fnmatch_lines(["*number=10*"])


BESIDE = """
    import asyncio, pytest, aevent
    from aevent import _core

    def ours():
        return _core.in_task()

    @pytest.mark.asyncio
    async def test_asyncio():
        await asyncio.sleep(0)
        assert not ours()

    @pytest.mark.anyio
    async def test_anyio(anyio_backend_name):
        assert not ours()

    @pytest.fixture
    async def anyio_fixture(anyio_backend):
        yield 1

    @pytest.mark.anyio
    async def test_anyio_fixture(anyio_fixture):
        assert anyio_fixture == 1

    @pytest.mark.trio
    async def test_trio(autojump_clock):
        import trio
        await trio.sleep(1000)
        assert not ours()

    @pytest.mark.aevent
    async def test_marked():
        assert ours()

    @pytest.fixture
    async def fixture():
        assert ours()
        yield 1

    @pytest.mark.aevent
    async def test_fixture(fixture):
        assert fixture == 1
        assert ours()
"""


def test_other_plugins_have_their_own_tests(passes: Run, pytester: pytest.Pytester) -> None:
    for name in ("pytest_asyncio", "anyio", "pytest_trio"):
        pytest.importorskip(name)
    source = (
        BESIDE
        + """
    def test_sync():
        assert ours()

    async def test_async():
        assert ours()
    """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    passes(
        source,
        "--aevent-backend=native",
        plugins=("asyncio", "anyio", "trio"),
        warnings="default",
        count=10,
    )


def test_what_another_takes_by_its_mode_is_its_own(passes: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio")
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    passes(
        """
    import asyncio, pytest, aevent
    from aevent import _core

    async def test_async():
        await asyncio.sleep(0)
        assert not _core.in_task()

    def test_sync():
        assert _core.in_task()

    @pytest.fixture
    async def fixture():
        assert _core.in_task()
        return 1

    @pytest.mark.aevent
    async def test_marked(fixture):
        assert _core.in_task()
    """,
        "--aevent-backend=trio",
        plugins=("asyncio",),
        count=3,
    )


def test_xdist(passes: Run) -> None:
    pytest.importorskip("xdist")
    passes(
        """
    import time
    from aevent import _core

    def test_sync():
        time.sleep(0.001)
        assert _core.in_task()

    async def test_async():
        assert _core.in_task()
    """,
        "--aevent-backend=native,trio",
        "-n2",
        plugins=("xdist",),
        count=4,
    )


@pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_keyboard_ends_the_run(backend: str, kind: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
    import os, threading, pytest, aevent

    @pytest.fixture(scope="session", autouse=True)
    def outer():
        yield
        print("outer ended", flush=True)

    def say():
        print("ready", flush=True)

    async def test_async():
        try:
            say()
            await aevent.sleep_forever()
        finally:
            print("cleaned up", flush=True)

    def test_sync():
        try:
            say()
            threading.Event().wait()
        finally:
            print("cleaned up", flush=True)

    def test_after():
        print("went on", flush=True)
    """
    )
    command = ["-m", "pytest", "-s", "-p", "no:cacheprovider", f"--aevent-backend={backend}"]
    process = subprocess.Popen(
        [sys.executable, *command, "-k", f"{kind} or after"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=pytester.path,
    )
    assert process.stdout is not None
    with process, process.stdout:
        lines = iter(process.stdout.readline, "")
        assert any("ready" in line for line in lines)
        process.send_signal(signal.SIGINT)
        rest = "".join(lines)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, rest
    assert "cleaned up" in rest and "outer ended" in rest, rest
    assert "went on" not in rest and "KeyboardInterrupt" in rest, rest


def test_a_signal_is_the_tests_from_its_first_line(passes: Run) -> None:
    passes(
        """
    import signal, pytest

    def test_sync():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    async def test_async():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    """,
        "--aevent-backend=native,asyncio,trio",
        count=6,
    )


def test_loops_that_tests_run_themselves(passes: Run) -> None:
    passes(
        """
    import asyncio, threading, pytest, aevent

    @pytest.fixture(scope="session")
    async def outer(aevent_backend):
        await aevent.sleep(0)
        yield

    def test_asyncio(outer):
        ticks = []
        thread = threading.Thread(target=lambda: ticks.append(1))

        async def main():
            thread.start()
            while not ticks:
                await asyncio.sleep(0.001)

        asyncio.run(main())
        thread.join()

    def test_trio(outer):
        trio = pytest.importorskip("trio")
        trio.run(trio.sleep, 0.001)

    @pytest.mark.aevent(backend=None)
    @pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
    def test_ours(backend):
        async def main():
            await aevent.sleep(0.001)
            return 1

        assert aevent.run(main, backend=backend) == 1
    """,
        ALL,
        count=9,
    )
