"""What all tests share: a timeout that tells who hangs where, and fresh interpreters."""

from __future__ import annotations

import _thread
import faulthandler
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds for one test. Then every stack is written out and the run ends: a hang has no other end.
#: Far more than any takes, also on a machine with much else to do: nothing else depends on it.
TIMEOUT = float(os.environ.get("AEVENT_TEST_TIMEOUT", "120"))
#: Seconds for a fresh interpreter, which has to start and import first.
FRESH_TIMEOUT = TIMEOUT / 2
ROOT = Path(__file__).parents[1]

_stderr = pytest.StashKey[int]()


class Watchdog:
    """Names the threads of a test that hangs; `faulthandler` has only their numbers.

    A thread of its own, which a test that blocks the loop without the interpreter's lock cannot
    stop. One that holds the lock can, and then there are the numbers at least.
    """

    def __init__(self, stderr: int) -> None:
        self.stderr = stderr
        self.deadline: float | None = None
        self.test = ""

    def watch(self, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        while True:
            sleep(0.5)
            if self.deadline is not None and clock() > self.deadline:
                self.deadline = None
                lines = [f"\n{self.test} hangs. Threads:"]
                lines += [f"  {each.ident or 0:#x} {each!r}" for each in threading.enumerate()]
                os.write(self.stderr, "\n".join([*lines, ""]).encode())


_watchdog = pytest.StashKey[Watchdog]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore it, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest suspends its capturing while it configures, so this is the real one.
    config.stash[_stderr] = stderr = os.dup(2)
    config.stash[_watchdog] = watchdog = Watchdog(stderr)
    _thread.start_new_thread(watchdog.watch, (time.sleep, time.monotonic))


@pytest.fixture(autouse=True)
def timeout(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends the run with everybody's stack if the test takes too long."""
    watchdog = request.config.stash[_watchdog]
    watchdog.test = request.node.nodeid
    watchdog.deadline = time.monotonic() + TIMEOUT - 1.5
    faulthandler.dump_traceback_later(TIMEOUT, exit=True, file=request.config.stash[_stderr])
    yield
    faulthandler.cancel_dump_traceback_later()
    watchdog.deadline = None


def _environment(env: dict[str, str]) -> dict[str, str]:
    # Unbuffered, print() writes a line in pieces, and threads take turns between them.
    not_theirs = ("AEVENT_BACKEND", "PYTHONUNBUFFERED")
    inherited = {name: value for name, value in os.environ.items() if name not in not_theirs}
    return {**inherited, "PYTHONPATH": str(ROOT), **env}


@pytest.fixture
def start_fresh(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script in a fresh interpreter in which warnings are errors."""
    started: list[subprocess.Popen[str]] = []

    def start(
        source: str, *args: str, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        script = tmp_path / f"script{len(started)}.py"
        script.write_text(source)
        command = [sys.executable, "-X", "faulthandler", "-W", "error", str(script), *args]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(env or {}),
            # A process group of its own: its children hold its pipes, and must end with it.
            start_new_session=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        _kill(process)
        process.communicate()


def _kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Sends a signal to a script and the children that it may have left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


@pytest.fixture
def communicate() -> Callable[[subprocess.Popen[str]], tuple[str, str]]:
    """What a script writes until it ends; fails with everybody's stack if it does not."""

    def wait(process: subprocess.Popen[str]) -> tuple[str, str]:
        try:
            return process.communicate(timeout=FRESH_TIMEOUT)
        except subprocess.TimeoutExpired:
            # faulthandler writes the stacks: of children that it has forked, too, which a timer in
            # the script would not.
            _kill(process, signal.SIGABRT)
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                _kill(process)
                out, err = process.communicate()
            pytest.fail(f"the script hangs\n--- stdout\n{out}\n--- stderr\n{err}")

    return wait


@pytest.fixture
def fresh(
    start_fresh: Callable[..., subprocess.Popen[str]],
    communicate: Callable[[subprocess.Popen[str]], tuple[str, str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in a fresh interpreter and returns what became of it."""

    def run(
        source: str, *args: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = start_fresh(source, *args, env=env)
        out, err = communicate(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def fresh_ok(fresh: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Runs a script that must end well and silently, and returns what it printed."""

    def run(source: str, *args: str, env: dict[str, str] | None = None) -> str:
        done = fresh(source, *args, env=env)
        ended = (done.returncode, done.stderr)
        assert ended == (0, ""), f"{done.stderr}\n--- stdout\n{done.stdout}"
        return done.stdout

    return run


# --- for what runs on each backend, in a process that tests/*/conftest.py has set up ---


@pytest.fixture(params=["native", "asyncio", "uvloop", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend that the test runs on; "uvloop" is asyncio's on another loop."""
    name: str = request.param
    if name != "native":
        pytest.importorskip(name)
    return name


@pytest.fixture
def run_on() -> Callable[[str], Callable[..., Any]]:
    """Gives `aevent.run(fn, *args)` on the backend that is named, which may be "uvloop"."""
    import aevent  # tests/project has tests for which it must not be imported here

    def choose(name: str) -> Callable[..., Any]:
        if name == "uvloop":
            uvloop = pytest.importorskip("uvloop")
            options = {"backend": "asyncio", "loop_factory": uvloop.new_event_loop}
        else:
            options = {"backend": name}
        return functools.partial(aevent.run, **options)

    return choose


@pytest.fixture
def run(backend: str, run_on: Callable[[str], Callable[..., Any]]) -> Callable[..., Any]:
    """`aevent.run(fn, *args)` on the backend."""
    return run_on(backend)


@pytest.fixture(params=["asyncio", "uvloop", "trio", "anyio-asyncio", "anyio-trio"])
def host(request: pytest.FixtureRequest) -> str:
    """A host whose own `run` starts the program."""
    name: str = request.param
    pytest.importorskip(name.rpartition("-")[2])
    return name


@pytest.fixture
def run_host(host: str) -> Callable[..., Any]:
    """Runs an async function by the host's own `run`, without aevent."""

    def run_on_host(fn: Callable[..., Any], *args: Any) -> Any:
        # Each host is imported where it is asked for only.
        if host.startswith("anyio-"):
            import anyio

            return anyio.run(fn, *args, backend=host.removeprefix("anyio-"))
        if host == "trio":
            import trio

            return trio.run(fn, *args)
        import asyncio

        if host == "uvloop":
            import uvloop

            return uvloop.run(fn(*args))
        return asyncio.run(fn(*args))

    return run_on_host


@pytest.fixture
def settle() -> Callable[[], Any]:
    """`await settle()`: returns when everybody else has gone as far as they can without events.

    Each checkpoint gives everybody who is ready one turn, and lets a host poll and tick.
    """
    import aevent
    from aevent import _core

    async def wait_until_all_parked() -> None:
        quiet = 0
        while quiet < 10:
            await aevent.checkpoint()
            quiet = quiet + 1 if _core.statistics().get("ready", 0) == 0 else 0

    return wait_until_all_parked


@pytest.fixture
def settle_sync(settle: Callable[[], Any]) -> Callable[[], None]:
    """`settle` for synchronous code in a task."""
    import aevent

    return lambda: aevent.await_(settle())
