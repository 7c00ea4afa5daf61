"""Which tests run in a task, on which backend, and who says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

Run = Callable[..., pytest.RunResult]

ALL = "--aevent-backend=native,asyncio,trio"

WHERE = """
    import aevent, pytest
    from aevent import _core

    def where():
        host = _core.get_host()
        return (host.name if host else "native") if _core.in_task() else None
"""


def test_both_kinds_of_tests_run_in_a_task_of_each_backend(passes: Run) -> None:
    passes(
        WHERE
        + """
    import socket, threading, time

    def test_sync(aevent_backend):
        assert where() == aevent_backend
        assert threading.current_thread() is threading.main_thread()
        left, right = socket.socketpair()
        with left, right:
            thread = threading.Thread(target=lambda: left.sendall(left.recv(1)))
            thread.start()
            assert _core.task_kind() == "green"
            right.sendall(b"x")
            assert right.recv(1) == b"x"
            thread.join()

    async def test_async(aevent_backend):
        assert where() == aevent_backend
        got = []
        async with aevent.TaskGroup() as tg:
            tg.spawn(time.sleep, 0.001)
            tg.spawn(aevent.sleep, 0.001)
            time.sleep(0.001)
    """,
        ALL,
        count=6,
    )


def test_tests_have_all_that_belongs_to_a_running_loop(passes: Run) -> None:
    passes(
        """
    import gc
    import aevent, anyio, sniffio

    def there_and_back():
        return aevent.from_thread.run_sync(sniffio.current_async_library)

    async def test_threads(aevent_backend):
        name = "aevent" if aevent_backend == "native" else aevent_backend
        assert await aevent.to_thread.run_sync(there_and_back) == name
        limiter = aevent.to_thread.current_default_thread_limiter()
        assert limiter is aevent.to_thread.current_default_thread_limiter()

    def test_threads_from_synchronous_code():
        assert aevent.await_(aevent.to_thread.run_sync(there_and_back))

    async def test_system_tasks():
        ran = aevent.Event()
        async def task():
            ran.set()
            await aevent.sleep_forever()
        aevent.lowlevel.spawn_system_task(task)
        await ran.async_wait()

    async def test_async_generators():
        closed = aevent.Event()
        async def generator():
            try:
                yield
            finally:
                closed.set()
        async for _ in generator():
            break
        gc.collect()
        await closed.async_wait()

    async def test_anyio():
        await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 0)
        async with anyio.from_thread.BlockingPortal() as portal:
            await anyio.to_thread.run_sync(portal.call, anyio.sleep, 0)
    """,
        ALL,
        count=15,
        warnings="default",
    )


def test_nothing_happens_unless_it_is_asked_for(passes: Run) -> None:
    passes(
        """
    import sys, threading, time

    def test_it():
        assert not [name for name in sys.modules if name.partition(".")[0] == "aevent"]
        assert type(time.sleep).__name__ == "builtin_function_or_method"
    """,
        count=1,
    )


@pytest.mark.parametrize("expected", ["native", "asyncio", "trio"])
def test_the_environment_and_the_ini_file_are_asked_too(
    passes: Run, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester, expected: str
) -> None:
    source = (
        WHERE
        + """
    import os
    def test_it():
        assert where() == os.environ["EXPECTED"]
    """
    )
    monkeypatch.setenv("EXPECTED", expected)
    monkeypatch.setenv("AEVENT_BACKEND", "trio")
    if expected != "trio":
        pytester.makeini("[pytest]\naevent_backend = asyncio")
    passes(source, *(["--aevent-backend=native"] if expected == "native" else []), count=1)


@pytest.mark.parametrize("how", ["option", "environment", "ini"])
def test_an_unknown_backend_is_refused(
    run_pytest: Run, how: str, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    args = []
    if how == "option":
        args.append("--aevent-backend=native,curio")
    elif how == "environment":
        monkeypatch.setenv("AEVENT_BACKEND", "curio")
    else:
        pytester.makeini("[pytest]\naevent_backend = curio")
    result = run_pytest("def test_it(): pass", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no backend 'curio': choose from 'native', 'asyncio'*"])


def test_a_marker_chooses_and_may_say_no(passes: Run) -> None:
    result = passes(
        WHERE
        + """
    import time

    @pytest.mark.aevent
    async def test_default():
        assert where() == "native"

    @pytest.mark.aevent(backend="trio")
    def test_trio():
        assert where() == "trio"
        time.sleep(0.001)

    @pytest.mark.aevent(backend=["asyncio", "native"])
    def test_two(aevent_backend):
        assert where() == aevent_backend

    def test_unmarked():
        assert where() is None

    @pytest.mark.aevent
    class TestAll:
        def test_it(self):
            assert where() == "native"

        @pytest.mark.aevent(backend=None)
        def test_no(self):
            assert where() is None
    """,
        "-v",
        count=7,
    )
    result.stdout.fnmatch_lines(["*::test_trio PASSED*", "*::test_two?asyncio? PASSED*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'trio'", "*it has no argument 'trio': it takes backend= and timeout=*"),
        ("backends='trio'", "*it has no argument backends: it takes backend= and timeout=*"),
        ("backend=3", "*backend= takes a name, a list of names or None, not 3*"),
        ("backend=[3]", "*backend= takes a name, a list of names or None, not ?3?*"),
        ("backend=[]", "*backend=[[]] names no backend: leave it out *, or say backend=None *"),
        ("backend=()", "*backend=() names no backend*"),
    ],
)
def test_a_marker_with_wrong_arguments(run_pytest: Run, arguments: str, message: str) -> None:
    result = run_pytest(
        f"""
    import pytest

    @pytest.mark.aevent({arguments})
    async def test_it():
        pass
    """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_marker_with_an_unknown_backend(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import pytest
    @pytest.mark.aevent(backend="curio")
    def test_it(): pass
    """
    )
    result.stdout.fnmatch_lines(["*marker: there is no backend 'curio'*"])
    assert result.ret != 0


MODES = (
    WHERE
    + """
    import os

    def test_sync():
        assert where() == (os.environ.get("SYNC") or None)

    async def test_async():
        assert where() == "native"

    @pytest.mark.aevent
    def test_marked():
        assert where() == "native"
    """
)


@pytest.mark.parametrize("backend", ["", "native"])
def test_auto_mode_takes_async_tests(
    passes: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    pytester.makeini("[pytest]\naevent_mode = auto")
    monkeypatch.setenv("SYNC", backend)
    passes(MODES, f"--aevent-backend={backend}", count=3)


def test_strict_mode_takes_marked_tests(run_pytest: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naevent_mode = strict")
    result = run_pytest(MODES, "--aevent-backend=native")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_an_unknown_mode_is_refused(run_pytest: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naevent_mode = always")
    result = run_pytest("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*aevent_mode is 'always': choose auto or strict*"])


def test_all_is_patched_before_test_modules_are_imported(
    passes: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("from time import sleep\nassert hasattr(sleep, '_aevent_orig')")
    passes(
        """
    from threading import Lock
    from time import sleep
    LOCK = Lock()
    assert hasattr(sleep, "_aevent_orig")
    assert type(LOCK).__module__ != "_thread" or hasattr(LOCK, "async_acquire")

    def test_it(): pass
    """,
        "--aevent-backend=native",
        count=1,
    )


def test_what_is_excluded_is_not_patched(passes: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naevent_exclude = time select")
    passes(
        """
    import time
    assert not hasattr(time.sleep, "_aevent_orig")
    def test_it(): pass
    """,
        "--aevent-backend=native",
        count=1,
    )


def test_an_exclusion_of_what_is_not_patched(run_pytest: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naevent_exclude = tim")
    result = run_pytest("def test_it(): pass", "--aevent-backend=native")
    result.stderr.fnmatch_lines(["*exclude names 'tim', which aevent does not patch*"])


def test_a_program_that_sets_itself_up_does_not_mind(passes: Run) -> None:
    passes(
        WHERE
        + """
    aevent.setup("trio")

    def test_it():
        assert where() == "native"
    """,
        "--aevent-backend=native",
        count=1,
    )


def test_outcomes_are_those_of_pytest(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import aevent, pytest

    async def test_skip():
        async with aevent.TaskGroup():
            pytest.skip("no")

    async def test_fail():
        assert 1 == 2

    def test_sync_fail():
        assert {"a": 1} == {"a": 2}

    @pytest.mark.xfail(strict=True)
    async def test_xfail():
        assert False

    def test_xfail_sync():
        pytest.xfail("yes")

    async def test_group():
        async with aevent.TaskGroup() as tg:
            tg.spawn(lambda: 1 / 0)

    @pytest.mark.parametrize("number", [1, 2])
    async def test_parameters(number):
        pass

    async def test_default_argument(tmp_path, number=5):
        assert number == 5 and tmp_path.exists()
    """,
        ALL,
    )
    result.assert_outcomes(skipped=3, failed=9, xfailed=6, passed=9)
    result.stdout.fnmatch_lines(["*assert 1 == 2", "*assert {'a': 1} == {'a': 2}"])
    result.stdout.no_fnmatch_line("*aevent/testing/*")


def test_threads_that_are_left_are_cancelled_and_named(run_pytest: Run) -> None:
    result = run_pytest(
        """
    import threading, time
    ended = []

    def sleep():
        try:
            time.sleep(1000)
        finally:
            ended.append(1)

    def test_leaves():
        threading.Thread(target=sleep, name="the leftover").start()
        threading.Thread(target=sleep, daemon=True).start()

    def test_next():
        assert ended == [1, 1]
        ended.clear()
    """,
        ALL,
        warnings="default",
    )
    result.assert_outcomes(passed=6, warnings=3)
    result.stdout.fnmatch_lines(["*green threads were left running*: the leftover*"])
