"""A green thread that computes does not keep others, or the host, from running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

import aevent

if __name__ == "tests_in_a_task":
    aevent.setup(sys.argv[2])

Start = Callable[..., "subprocess.Popen[str]"]
Communicate = Callable[["subprocess.Popen[str]"], tuple[str, str]]


def in_thread(fn: Callable[..., object]) -> threading.Thread:
    thread = threading.Thread(target=fn)
    thread.start()
    return thread


class Flag:
    """Set by a green thread when it is told to; what spins on it calls nothing."""

    def __init__(self) -> None:
        self.up = False
        self._go = threading.Event()
        self._thread = in_thread(self._run)

    def _run(self) -> None:
        self._go.wait()
        self.up = True

    def spin(self) -> None:
        self._go.set()
        while not self.up:
            pass
        self._thread.join()


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_main_spins_until_a_thread_has_run() -> None:
    Flag().spin()


def test_again_and_again() -> None:
    for _ in range(5):
        Flag().spin()


def test_threads_that_spin_take_turns() -> None:
    turns = [False, False]

    def first() -> None:
        turns[0] = True
        while not turns[1]:
            pass
        turns[0] = False

    def second() -> None:
        while not turns[0]:
            pass
        turns[1] = True
        while turns[0]:
            pass

    flag = Flag()
    threads = [in_thread(first), in_thread(second)]
    flag.spin()
    for thread in threads:
        thread.join()


def test_a_function_that_only_calls_is_left_too() -> None:
    flag = Flag()

    def spin() -> None:
        if not flag.up:
            flag._go.set()
            for _ in range(100):
                nothing()

    def nothing() -> None:
        pass

    while not flag.up:
        spin()


def test_timers_are_looked_after() -> None:
    woken: list[bool] = []
    thread = in_thread(lambda: (time.sleep(0.001), woken.append(True)))
    while not woken:
        pass
    thread.join()


def test_nobody_is_left_under_native() -> None:
    flag = Flag()
    flag._go.set()
    with aevent.native():
        compute(0.05)
        assert not flag.up
    flag.spin()


def test_a_child_of_a_fork() -> None:
    child = os.fork()
    if child == 0:
        try:
            Flag().spin()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_deadline_reaches_the_next_call_that_waits() -> None:
    with aevent.move_on_after(0.001) as scope:
        Flag().spin()
        compute(0.03)
        time.sleep(3600)
    assert scope.cancelled_caught


def test_the_signal_that_stands_for_it_does_not_show() -> None:
    largest = max(signal.valid_signals())
    assert signal.getsignal(largest) is signal.SIG_DFL
    calls: list[int] = []

    def handler(number: int, frame: object) -> None:
        calls.append(number)

    assert signal.signal(largest, handler) is signal.SIG_DFL
    try:
        assert signal.getsignal(largest) is handler
        Flag().spin()
        assert calls == []
        signal.raise_signal(largest)
        assert calls == [largest]
    finally:
        assert signal.signal(largest, signal.SIG_DFL) is handler


BACKENDS = pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])


@BACKENDS
def test_an_async_task_is_never_left(
    start_fresh: Start, communicate: Communicate, backend: str
) -> None:
    script = """
import sys, aevent
aevent.setup(sys.argv[1])
import threading, time

up = False

def raise_flag():
    global up
    up = True

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(raise_flag)
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        print(up)
    print(up)

aevent.run(main)
"""
    assert communicate(start_fresh(script, backend)) == ("False\nTrue\n", "")


@BACKENDS
def test_nobody_is_preempted_if_not_wanted(
    start_fresh: Start, communicate: Communicate, backend: str
) -> None:
    script = """
import sys, aevent
aevent.setup(sys.argv[1], preempt=False)
aevent.setup(sys.argv[1])
import threading, time

go = threading.Event()
up = []

def main():
    thread = threading.Thread(target=lambda: (go.wait(), up.append(True)))
    thread.start()
    go.set()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    print(up)
    thread.join()
    print(up)

aevent.run(main)
"""
    assert communicate(start_fresh(script, backend)) == ("[]\n[True]\n", "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_hosts_own_tasks_go_on(
    start_fresh: Start, communicate: Communicate, backend: str
) -> None:
    script = """
import sys, aevent
aevent.setup(sys.argv[1])
import anyio

beats = 0

async def heart():
    global beats
    while beats < 5:
        beats += 1
        await anyio.sleep(0)

def spin():
    while beats < 5:
        pass

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(heart)
        group.spawn(spin)
    print(beats)

aevent.run(main)
"""
    assert communicate(start_fresh(script, backend)) == ("5\n", "")
