"""`setup(warn_blocking=…)`: who holds up a loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from aevent import _watchdog

# --- in a process of its own, on each backend ---

PROGRAM = """
import contextlib, sys, threading, time
import aevent
aevent.setup("native", warn_blocking=0.05)
import logging
logging.getLogger("aevent.blocking").setLevel(logging.CRITICAL)

options = {}
backend = sys.argv[1]
if backend == "uvloop":
    import uvloop
    backend, options = "asyncio", {"loop_factory": uvloop.new_event_loop}

reports = []
aevent.on_blocking(reports.append)

def blocks():
    with aevent.native():
        time.sleep(0.4)

def reported():
    "The reports of that function; others are the machine's fault, which may have stood still."
    return [each for each in reports if any(frame.name == "blocks" for frame in each.stack)]

async def until_reported():
    while not reported():
        await aevent.sleep(0.002)
    return reported()[0]

def check(report, task, kind):
    assert report.task == task, report.task
    assert report.kind == kind, report.kind
    assert 0.1 < report.seconds < 60, report.seconds
    assert not report.goes_on
    assert "time.sleep(0.4)" in str(report) and "was held up for" in str(report), str(report)
    assert all("aevent" not in frame.filename for frame in report.stack[:1])
"""


def program(body: str) -> str:
    return PROGRAM + body + "\naevent.run(main, backend=backend, **options)\nprint('ok')\n"


@pytest.fixture
def check(fresh_ok: Callable[..., str], backend: str) -> Callable[[str], None]:
    def check(body: str) -> None:
        assert fresh_ok(program(body), backend) == "ok\n"

    return check


def test_a_green_thread_that_blocks_is_named(check: Callable[[str], None]) -> None:
    check("""
async def main():
    thread = threading.Thread(target=blocks, name="the culprit")
    thread.start()
    check(await until_reported(), "the culprit", "green")
    await aevent.sleep(0.1)
    assert len(reported()) == 1, reported()
    # Who watches is nobody's business.
    assert len(threading.enumerate()) == 1, threading.enumerate()
""")


def test_an_async_task_that_blocks_is_named(check: Callable[[str], None]) -> None:
    check("""
async def culprit():
    blocks()

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(culprit)
    kind = "coroutine" if backend == "native" else "host"
    check(await until_reported(), "__main__.culprit", kind)
""")


def test_a_hosts_own_task_that_blocks_is_named(check: Callable[[str], None], backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")
    check("""
import anyio

async def blocks():
    time.sleep._aevent_orig(0.4)

async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(blocks, name="the culprit")
    report = await until_reported()
    # A task of trio's that has a portal, as those of anyio's groups do, is named by what it runs.
    name = "__main__.blocks" if backend == "trio" else "the culprit"
    assert (report.task, report.kind) == (name, "host"), report
    assert 0.1 < report.seconds < 60
""")


def test_a_call_into_c_that_keeps_the_interpreter_is_reported_afterwards(
    check: Callable[[str], None],
) -> None:
    check("""
import re

def seconds(length):
    began = time.thread_time()
    re.match(r"(a+)+$", "a" * length + "b")
    return time.thread_time() - began

# How long a text takes long enough, on this machine.
length = 14
while seconds(length) < 0.15:
    length += 1

def blocks():
    re.match(r"(a+)+$", "a" * length + "b")

async def culprit():
    # Who watches has to have begun.
    await aevent.sleep(0.05)
    blocks()

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(culprit)
    report = await until_reported()
    assert report.afterwards, report
    assert "re.match" in str(report)
""")


def test_a_program_that_waits_or_switches_is_not_reported(check: Callable[[str], None]) -> None:
    check("""
def worker():
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        time.sleep(0)

async def task():
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        await aevent.sleep(0)

async def main():
    # The machine may stand still now and then: not every time.
    for _ in range(30):
        reports.clear()
        async with aevent.TaskGroup() as group:
            group.spawn(worker)
            group.spawn(worker)
            group.spawn(task)
        await aevent.sleep(0.15)
        if not reports:
            break
    assert not reports, reports
""")


def test_what_is_looked_at_with_a_debugger_is_not_reported(check: Callable[[str], None]) -> None:
    check("""
def trace(frame, event, argument):
    return trace

def traced():
    sys.settrace(trace)
    try:
        blocks()
    finally:
        sys.settrace(None)

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(traced)
    await aevent.sleep(0.1)
    assert not reported(), reported()
""")


def test_the_environment_sets_the_threshold(fresh: Callable[..., Any]) -> None:
    source = """
import sys, time, aevent
aevent.setup("native")
reports = []
aevent.on_blocking(reports.append)

async def main():
    with aevent.native():
        time.sleep(0.4)
    await aevent.sleep(0.1)
    while "reported" in sys.argv and not reports:
        await aevent.sleep(0.01)

aevent.run(main)
"""
    for value, expected in (("0.05", True), ("", False), ("0", False)):
        arguments = ["reported"] if expected else []
        done = fresh(source, *arguments, env={"AEVENT_WARN_BLOCKING": value})
        assert done.returncode == 0, done.stderr
        assert ("the loop was held up for " in done.stderr) == expected, done.stderr
    done = fresh(source, env={"AEVENT_WARN_BLOCKING": "often"})
    assert "AEVENT_WARN_BLOCKING is 'often': it must be a number of seconds" in done.stderr


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "often"])
def test_a_threshold_that_is_none_is_an_error(value: Any) -> None:
    with pytest.raises(RuntimeError, match="warn_blocking must be a number of seconds, such as"):
        aevent.setup("native", warn_blocking=value)


# --- how looks at a loop become reports ---


class Fake:
    """A loop that is held up as the test says."""

    host = None
    ended = 0.0
    stall: Any = None

    def __init__(self) -> None:
        self.watch = self
        self.since = 0.0
        self.now = 0.0

    def held(self, now: float | None = None) -> float:
        if now is not None:
            self.now = now
        return self.now - self.since

    def running_task(self) -> None:
        return None

    def frame(self) -> None:
        return None


@pytest.fixture
def reports() -> Any:
    logging.getLogger("aevent.blocking").disabled = True
    found: list[aevent.Blocking] = []
    end = aevent.on_blocking(found.append)
    yield found
    end()
    logging.getLogger("aevent.blocking").disabled = False


def test_a_stall_is_reported_once_with_its_whole_length(reports: list[aevent.Blocking]) -> None:
    loop: Any = Fake()
    for now in (0.05, 0.15, 0.3, 0.9):
        _watchdog._look_at(loop, now, 0.1, 0.0)
    assert reports == []
    loop.since = 0.95
    for now in (1.0, 1.01, 1.02):
        _watchdog._look_at(loop, now, 0.1, 0.0)
    (report,) = reports
    assert report.seconds == pytest.approx(0.95)
    assert not report.goes_on and not report.afterwards


def test_one_stall_right_after_another_is_another(reports: list[aevent.Blocking]) -> None:
    loop: Any = Fake()
    _watchdog._look_at(loop, 0.2, 0.1, 0.0)
    loop.since = 0.25
    _watchdog._look_at(loop, 0.5, 0.1, 0.0)
    loop.since = 0.6
    _watchdog._look_at(loop, 0.61, 0.1, 0.0)
    assert [report.seconds for report in reports] == pytest.approx([0.25, 0.35])


def test_one_that_does_not_end_is_reported_once_nevertheless(
    reports: list[aevent.Blocking],
) -> None:
    loop: Any = Fake()
    for now in (1.0, 29.0, 31.0, 40.0):
        _watchdog._look_at(loop, now, 0.1, 0.0)
    (report,) = reports
    assert report.goes_on and report.seconds == pytest.approx(31.0)
    assert str(report).startswith("the loop has been held up for 31.000 s")
    loop.since = 41.0
    _watchdog._look_at(loop, 41.01, 0.1, 0.0)
    assert len(reports) == 1


def test_a_report_leaves_no_thread_object_behind(reports: list[aevent.Blocking]) -> None:
    logging.getLogger("aevent.blocking").disabled = False
    before = len(threading.enumerate())
    done: list[bool] = []

    def look() -> None:
        loop: Any = Fake()
        _watchdog._look_at(loop, 1.0, 0.1, 0.0)
        loop.since = 2.0
        _watchdog._look_at(loop, 2.0, 0.1, 0.0)
        done.append(True)

    import _thread
    import time

    _thread.start_new_thread(look, ())
    while not done:
        time.sleep(0.001)
    assert len(threading.enumerate()) == before
    # Only what the report itself has made: this thread is known.
    look()
    assert threading.current_thread() is threading.main_thread()
    assert threading.main_thread() in threading.enumerate()
