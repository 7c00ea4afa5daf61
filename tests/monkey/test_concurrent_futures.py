"""`concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat

fork = multiprocessing.get_context("fork")


def test_workers_are_green_threads() -> None:
    with heartbeat() as heart, ThreadPoolExecutor(4) as pool:
        assert pool.submit(threading.get_native_id).result() == threading.get_native_id()
        assert list(pool.map(lambda n: (time.sleep(0.005), n)[1], range(8))) == list(range(8))
        assert heart.ticks
        futures = [pool.submit(divmod, 1, n) for n in (1, 0)]
        assert concurrent.futures.wait(futures).done == set(futures)
        assert {future.exception() is None for future in futures} == {True, False}
        assert set(concurrent.futures.as_completed(futures)) == set(futures)


def test_a_pool_works_as_many_calls_at_a_time_as_it_has_workers() -> None:
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.001)
        running.pop()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(9):
            pool.submit(work)
    assert max(most) == 3 and len(most) == 9


def test_a_timeout_and_a_cancelled_wait() -> None:
    with ThreadPoolExecutor(1) as pool:
        go = threading.Event()
        future = pool.submit(go.wait)
        waiting = pool.submit(abs, -1)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0.001)
        with aevent.move_on_after(0.001) as scope:
            future.result()
        assert scope.cancelled_caught
        assert waiting.cancel()
        go.set()
        assert future.result() is True


def test_shutdown_cancels_what_has_not_begun() -> None:
    begun = threading.Semaphore(0)
    go = threading.Event()

    def work() -> bool:
        begun.release()
        return go.wait()

    pool = ThreadPoolExecutor(2)
    futures = [pool.submit(work) for _ in range(10)]
    for _ in range(2):
        begun.acquire()
    pool.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in futures] == [False] * 2 + [True] * 8
    go.set()
    pool.shutdown()
    assert [future.result() for future in futures[:2]] == [True] * 2


def test_an_initializer_that_fails_breaks_the_pool() -> None:
    import logging

    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    pool = ThreadPoolExecutor(1, initializer=divmod, initargs=(1, 0))
    future = pool.submit(abs, -1)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        future.result()
    with pytest.raises(concurrent.futures.BrokenExecutor):
        pool.submit(abs, -1)
    pool.shutdown()


def test_a_pool_that_is_forgotten_ends() -> None:
    pool = ThreadPoolExecutor(2)
    pool.submit(abs, -1).result()
    workers = [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
    assert workers
    del pool
    for worker in workers:
        worker.join()


_go = fork.Event()


def _wait_to_go() -> bool:
    return _go.wait()


def test_a_pool_of_processes() -> None:
    with heartbeat() as heart, ProcessPoolExecutor(2, fork) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        _go.clear()
        heart.after_ticks(_go.set)
        assert pool.submit(_wait_to_go).result()
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()


def test_a_pool_of_processes_forks_when_nobody_holds_what_a_fork_takes() -> None:
    results: list[object] = []

    def compute() -> None:
        with ProcessPoolExecutor(1, fork) as pool:
            results.append(pool.submit(abs, -1).result())
        with fork.Pool(1) as processes:
            results.append(processes.apply(abs, (-2,)))

    thread = threading.Thread(target=compute)
    with concurrent.futures.thread._global_shutdown_lock:
        thread.start()
        for _ in range(10):
            time.sleep(0)
        assert not multiprocessing.active_children()
    thread.join()
    assert results == [1, 2]


def test_a_process_that_dies_breaks_the_pool() -> None:
    import os

    with ProcessPoolExecutor(1, fork) as pool:
        future = pool.submit(os._exit, 1)
        with pytest.raises(concurrent.futures.process.BrokenProcessPool):
            future.result()


def test_a_program_ends_though_its_pools_were_not_shut_down(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import multiprocessing, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

early = ThreadPoolExecutor(3)
done = []

def late():
    "When the main function has ended, it is as at the end of a program."
    time.sleep(0.01)
    for pool in early, ThreadPoolExecutor(1):
        try:
            pool.submit(print)
        except RuntimeError as error:
            print(error)

def main():
    global processes
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    assert processes.submit(abs, -1).result() == 1
    for number in range(6):
        early.submit(lambda number=number: (time.sleep(0.01), done.append(number)))
    threading.Thread(target=late).start()

aevent.run(main)
# What was submitted was done.
assert sorted(done) == [0, 1, 2, 3, 4, 5]
# It can be used again: by real threads here, by green ones in the next run.
here = threading.get_native_id()
aevent.run(lambda: done.append(early.submit(threading.get_native_id).result() == here))
assert done.pop()
assert early.submit(threading.get_native_id).result() != here

async def asynchronous():
    global early
    early = ThreadPoolExecutor(3)
    early.submit(done.append, "async")
    async with aevent.runner():
        inner = ThreadPoolExecutor(1)
        if sys.argv[1] == "native":
            inner.submit(done.append, "inner")

aevent.run(asynchronous)
assert "async" in done
"""
    assert fresh_ok(script, backend) == (
        "cannot schedule new futures after shutdown\n"
        "cannot schedule new futures after interpreter shutdown\n"
    )


def test_the_workers_of_a_daemon_do_what_is_left(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time
from concurrent.futures import ThreadPoolExecutor

def daemon():
    global pool
    pool = ThreadPoolExecutor(2)
    pool.submit(abs, -1).result()
    pool.submit(lambda: (time.sleep(0.01), print("done")))
    threading.Event().wait()

def main():
    thread = threading.Thread(target=daemon, daemon=True)
    thread.start()
    thread.join(0.001)

{run}
"""
    assert fresh_ok(script.replace("{run}", "aevent.run(main)"), backend) == "done\n"
    script = f"""
import subprocess, sys
program = {script.replace("{run}", "main()")!r}
command = [sys.executable, "-m", "aevent", "-b", sys.argv[1], "-c", program, sys.argv[1]]
sys.exit(subprocess.run(command).returncode)
"""
    assert fresh_ok(script, backend) == "done\n"
