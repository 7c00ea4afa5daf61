"""`fcntl`: locks on files."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: str, how: str) -> Iterator[Callable[[], None]]:
    """Another process that holds a lock until the function is called."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, path, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield process.stdin.close
        finally:
            process.stdin.close()


def test_locks_of_other_processes_are_waited_for() -> None:
    whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    waits: list[tuple[str, Callable[[int], object]]] = [
        ("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)),
        ("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_SH)),
        ("lockf", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX)),
        ("lockf", lambda fd: fcntl.fcntl(fd, fcntl.F_SETLKW, whole)),
        ("lockf", lambda fd: os.lockf(fd, os.F_LOCK, 0)),
    ]
    with tempfile.NamedTemporaryFile() as file, heartbeat() as heart:
        for how, wait in waits:
            with held(file.name, how) as release:
                heart.after_ticks(release)
                wait(file.fileno())
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_UN)


def test_not_waiting_does_not_wait() -> None:
    with tempfile.NamedTemporaryFile() as file, held(file.name, "flock"):
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with tempfile.NamedTemporaryFile() as file, held(file.name, "lockf"):
        with pytest.raises((BlockingIOError, PermissionError)):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises((BlockingIOError, PermissionError)):
            os.lockf(file.fileno(), os.F_TLOCK, 0)


def test_who_gave_up_does_not_get_the_lock() -> None:
    with tempfile.NamedTemporaryFile() as file:
        with held(file.name, "flock") as release:
            with aevent.move_on_after(0.01) as scope:
                fcntl.flock(file, fcntl.LOCK_EX)
            assert scope.cancelled_caught
            release()
        with open(file.name) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_threads_get_the_lock_in_the_order_in_which_they_asked() -> None:
    with tempfile.NamedTemporaryFile() as file, heartbeat() as heart:
        order: list[int] = []

        def take(n: int) -> None:
            with open(file.name) as mine:
                fcntl.flock(mine, fcntl.LOCK_EX)
                order.append(n)

        with held(file.name, "flock") as release:
            threads = [threading.Thread(target=take, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            heart.after_ticks(release)
            for thread in threads:
                thread.join()
        assert order == [0, 1, 2, 3]


def test_wrong_arguments() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.flock(10_000, fcntl.LOCK_EX)
    with pytest.raises(TypeError):
        fcntl.flock("x", fcntl.LOCK_EX)  # type: ignore[arg-type]
    with tempfile.TemporaryFile() as file:
        assert fcntl.fcntl(file, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
