"""Locks: handed from thread to thread, contended, and free."""

from __future__ import annotations

import _thread
import threading
import time

from measure import Clocks, Sample, for_about


def main(*, seconds: float, kind: str, threads: int = 1) -> Sample:
    measure = {
        "ring": ring,
        "contended": contended,
        "acquire and release": acquire_and_release,
        "with": with_statement,
        "with RLock": with_rlock,
    }[kind]
    first = 1000 if threads == 1 else max(2, 500 // threads)
    return for_about(seconds, lambda size: measure(threads, size), first=first)


def ring(threads: int, laps: int) -> Sample:
    """Each thread waits for its own lock and releases the next one's: an operation is one
    hand-over, with nothing beside it."""
    locks = [threading.Lock() for _ in range(threads)]
    for lock in locks:
        lock.acquire()

    def run(mine: threading.Lock, following: threading.Lock) -> None:
        for _ in range(laps):
            mine.acquire()
            following.release()

    workers = [
        threading.Thread(target=run, args=(locks[number], locks[(number + 1) % threads]))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    begin = Clocks.read()
    locks[0].release()
    for worker in workers:
        worker.join()
    return Sample.between(begin, Clocks.read(), threads * laps)


def contended(threads: int, rounds: int) -> Sample:
    """All threads want one lock, and each yields while it has it: an operation is one hand-over
    and one `time.sleep(0)`."""
    lock = threading.Lock()

    def run() -> None:
        for _ in range(rounds):
            with lock:
                time.sleep(0)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    with lock:
        for worker in workers:
            worker.start()
        begin = Clocks.read()
    for worker in workers:
        worker.join()
    return Sample.between(begin, Clocks.read(), threads * rounds)


def acquire_and_release(threads: int, count: int) -> Sample:
    lock = _thread.allocate_lock()
    begin = Clocks.read()
    for _ in range(count):
        lock.acquire()
        lock.release()
    return Sample.between(begin, Clocks.read(), count)


def with_statement(threads: int, count: int) -> Sample:
    lock = _thread.allocate_lock()
    begin = Clocks.read()
    for _ in range(count):
        with lock:
            pass
    return Sample.between(begin, Clocks.read(), count)


def with_rlock(threads: int, count: int) -> Sample:
    lock = threading.RLock()
    begin = Clocks.read()
    for _ in range(count):
        with lock:
            pass
    return Sample.between(begin, Clocks.read(), count)
