"""A green thread that computes does not keep others, or the host, from running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

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

    def tell(self) -> None:
        """Without letting it run: a call that does not wait may do so in a task."""
        with aevent.native():
            self._go.set()

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
    with aevent.native():
        flag._go.set()
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

turns = 0
over = False

def take_turns():
    global turns
    while not over:
        turns += 1
        time.sleep(0)

def main():
    global over
    thread = threading.Thread(target=take_turns)
    thread.start()
    before = turns
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    print(turns - before)
    over = True
    thread.join()

aevent.run(main)
"""
    assert communicate(start_fresh(script, backend)) == ("0\n", "")


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


def test_a_task_that_runs_an_event_loop_is_left_too() -> None:
    import asyncio

    flag = Flag()

    async def main() -> None:
        flag._go.set()
        while not flag.up:
            await asyncio.sleep(0)

    asyncio.run(main())
    flag._thread.join()


def test_nobody_is_left_while_an_extension_waits_for_it() -> None:
    """It may keep something for the OS thread meanwhile: here, in fact, it does not."""
    import ctypes

    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    seen = [True, True]

    @compare
    def callback(left: int, right: int) -> int:
        seen[0] = flag.up
        compute(0.05)
        seen[1] = flag.up
        return 0

    while seen[0]:  # it was left before
        flag = Flag()
        flag.tell()
        array = (ctypes.c_int * 2)(1, 2)
        ctypes.CDLL(None).qsort(array, 2, ctypes.sizeof(ctypes.c_int), callback)
        flag.spin()
    assert seen == [False, False]


def test_callbacks_of_the_interpreter_can_be_left() -> None:
    flag = Flag()
    flag._go.set()

    def key(number: int) -> int:
        while not flag.up:
            pass
        return -number

    assert sorted([1, 2], key=key) == [2, 1]
    flag._thread.join()


def test_nobody_is_left_in_a_trace_function() -> None:
    seen: list[bool] = []

    def trace(frame: object, event: str, argument: object) -> None:
        if not seen:
            before = flag.up
            compute(0.05)
            seen.extend((before, flag.up))

    former = sys.gettrace()
    while not seen or seen[0]:  # it was left before
        seen.clear()
        flag = Flag()
        flag.tell()
        sys.settrace(trace)
        try:
            compute(0)
        finally:
            sys.settrace(former)
        flag.spin()
    assert seen == [False, False]


def test_the_process_has_no_other_thread_for_it() -> None:
    Flag().spin()
    assert "aevent-preempt" not in {
        Path(f"/proc/self/task/{number}/comm").read_text().strip()
        for number in os.listdir("/proc/self/task")
    }


def test_children_are_not_preempted() -> None:
    """Nor is anything else in them that is ours: they would be ended by it."""
    program = """
import signal, time
while time.process_time() < 0.1: pass
largest = max(signal.valid_signals())
print(signal.getsignal(largest) is signal.SIG_DFL, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    compute(0.02)
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert output == "True set()\n"
    child = os.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program + "assert False"])
    assert os.waitpid(child, 0)[1] == 1 << 8


def test_waits_of_c_code_are_restarted() -> None:
    """While this thread computes, and while it waits in C without that the loop is looked after."""
    reader, writer = os.pipe()
    with aevent.native():
        real = threading.Thread(target=lambda: (time.sleep(0.05), os.write(writer, b"x")))
        real.start()
        compute(0.03)
        assert os.read(reader, 1) == b"x"
        real.join()
    os.close(reader)
    os.close(writer)


def test_a_signal_that_the_program_waits_for_is_left_to_it() -> None:
    largest = max(signal.valid_signals())
    signal.pthread_sigmask(signal.SIG_BLOCK, [largest])
    try:
        compute(0.03)
        assert signal.sigtimedwait([largest], 0) is None
        compute(0.03)
        os.kill(os.getpid(), largest)
        assert signal.sigwait([largest]) == largest
        Flag().spin()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [largest])


@BACKENDS
def test_a_program_that_computes_ends_as_it_should(
    start_fresh: Start, communicate: Communicate, backend: str
) -> None:
    """The interpreter gives up its handlers when it ends: nothing may arrive then."""
    script = """
import sys, aevent
aevent.setup(sys.argv[1])
import atexit, threading, time

def compute():
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

class AtTheVeryEnd:
    def __del__(self, compute=compute):
        compute()

keep = AtTheVeryEnd()
keep.itself = keep
atexit.register(compute)
compute()
aevent.run(compute)
compute()
print("done")
"""
    assert communicate(start_fresh(script, backend)) == ("done\n", "")
