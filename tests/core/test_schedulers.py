"""A scheduler for each OS thread: many at once, waking each other, and their end."""

from __future__ import annotations

import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
Fresh = Callable[..., subprocess.CompletedProcess[str]]


def in_os_threads(fns: list[Callable[[], Any]]) -> list[Any]:
    """Calls each in a thread of its own, and returns what they return."""
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        try:
            results[number] = fns[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(fns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return [results[number] for number in range(len(fns))]


def test_run_in_several_os_threads_at_once(run: Run) -> None:
    barrier = threading.Barrier(4)

    def main() -> int:
        # They all are in it at the same time, or the barrier breaks.
        barrier.wait(30)
        total: list[int] = []

        def worker() -> None:
            for _ in range(20):
                time.sleep(0)
            total.append(1)

        threads = [threading.Thread(target=worker) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(total)

    assert in_os_threads([lambda: run(main)] * 4) == [5] * 4


def test_run_again_and_again_in_new_os_threads(run: Run) -> None:
    for _ in range(5):
        assert in_os_threads([lambda: run(lambda: time.sleep(0.0005))] * 2) == [None] * 2


def test_tasks_of_different_schedulers_wake_each_other(run: Run) -> None:
    ping: queue.SimpleQueue[int] = queue.SimpleQueue()
    pong: queue.SimpleQueue[int] = queue.SimpleQueue()

    def serve() -> None:
        for _ in range(100):
            pong.put(ping.get() + 1)

    async def play() -> list[int]:
        results = []
        for number in range(100):
            ping.put(number)
            results.append(await pong.async_get())  # type: ignore[attr-defined]
        return results

    results = in_os_threads([lambda: run(serve), lambda: run(play)])
    assert results == [None, list(range(1, 101))]


def test_a_socket_moves_between_schedulers(run: Run) -> None:
    left, right = socket.socketpair()

    def receive() -> bytes:
        return left.recv(1)

    with left, right:
        for letter in (b"a", b"b", b"c"):

            def send(letter: bytes = letter) -> None:
                time.sleep(0.001)
                right.send(letter)

            assert in_os_threads([lambda: run(receive), lambda: run(send)]) == [letter, None]


def test_closing_a_socket_wakes_who_waits_for_it_in_another_scheduler(run: Run) -> None:
    left, right = socket.socketpair()
    waiting = threading.Event()

    def receive() -> str:
        threading.Timer(0.002, waiting.set).start()
        try:
            left.recv(1)
        except OSError as error:
            return type(error).__name__
        return "returned"

    def close() -> None:
        waiting.wait()
        left.close()

    with right:
        assert in_os_threads([lambda: run(receive), lambda: run(close)]) == ["OSError", None]


def test_an_exception_in_one_scheduler_leaves_the_others_alone(run: Run) -> None:
    def fail() -> None:
        time.sleep(0.001)
        raise ValueError("mine")

    def work() -> str:
        time.sleep(0.005)
        return "done"

    first, second = in_os_threads([lambda: run(fail), lambda: run(work)])
    assert repr(first) == "ValueError('mine')" and second == "done"


def test_a_system_thread_started_in_a_task_may_run_a_loop_of_its_own(run: Run) -> None:
    results: list[str] = []

    def inner() -> None:
        time.sleep(0.001)
        results.append("inner")

    def main() -> None:
        thread = threading.Thread._aevent_orig(target=lambda: run(inner))  # type: ignore[attr-defined]
        thread.start()
        thread.join()
        results.append("outer")

    run(main)
    assert results == ["inner", "outer"]


# --- the end of the interpreter ---

BACKENDS = pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])


@BACKENDS
@pytest.mark.slow
def test_parked_daemons_do_not_disturb_the_end_of_the_interpreter(
    fresh: Fresh, backend: str
) -> None:
    done = fresh(
        """
import aevent, sys
aevent.setup(sys.argv[1])
import queue, threading, time

def wait(fn):
    fn()

def main():
    lock = threading.Lock()
    lock.acquire()
    for fn in (lambda: time.sleep(3600), lock.acquire, queue.Queue().get, threading.Event().wait):
        threading.Thread(target=wait, args=(fn,), daemon=True).start()
    time.sleep(0.001)
    # Real daemons too, which wait for hybrid locks until the process is gone.
    for fn in (lock.acquire, queue.Queue().get, threading.Event().wait):
        threading.Thread._aevent_orig(target=fn, daemon=True).start()

aevent.run(main)
sys.exit(3)
""",
        backend,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@BACKENDS
@pytest.mark.slow
def test_exit_in_main_ends_the_program_with_its_code(fresh: Fresh, backend: str) -> None:
    done = fresh(
        """
import aevent, sys
aevent.setup(sys.argv[1])
import atexit, threading, time
atexit.register(print, "atexit")

def main():
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    time.sleep(0.001)
    sys.exit(5)

aevent.run(main)
""",
        backend,
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "atexit\n", "")


@BACKENDS
@pytest.mark.slow
def test_an_error_in_a_thread_is_reported_as_threading_does(fresh: Fresh, backend: str) -> None:
    done = fresh(
        """
import aevent, sys
aevent.setup(sys.argv[1])
import threading

def fail():
    raise ValueError("mine")

def main():
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    print("goes on")

aevent.run(main)
""",
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert done.stderr.startswith("Exception in thread worker:\nTraceback (most recent call last):")
    assert done.stderr.endswith("ValueError: mine\n")


@BACKENDS
@pytest.mark.slow
def test_tasks_leave_no_objects_behind(fresh: Fresh, backend: str) -> None:
    done = fresh(
        """
import aevent, sys
aevent.setup(sys.argv[1])
import gc, threading, time, weakref

class Thing:
    pass

alive = weakref.WeakSet()

def worker(thing):
    time.sleep(0.0001)

async def child(thing):
    await aevent.sleep(0.0001)
    time.sleep(0)

async def cancelled(thing):
    await aevent.sleep_forever()

async def main():
    async with aevent.TaskGroup() as group:
        for fn in (worker, child, cancelled):
            for _ in range(50):
                thing = Thing()
                alive.add(thing)
                scope = group.spawn(fn, thing)
                if fn is cancelled:
                    scope.cancel()
        threads = [threading.Thread(target=worker, args=(Thing(),)) for _ in range(50)]
        for thread in threads:
            alive.update(thread._args)
            thread.start()

aevent.run(main)
gc.collect()
print(len(alive))
""",
        backend,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
