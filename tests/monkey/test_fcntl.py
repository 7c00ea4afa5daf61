"""`fcntl`: locks on files."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
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


def test_who_gave_up_waiting_for_a_turn_holds_nobody_up() -> None:
    with tempfile.NamedTemporaryFile() as file, heartbeat() as heart:
        got: list[str] = []

        def take(name: str, patience: float) -> None:
            with open(file.name) as mine, aevent.move_on_after(patience):
                fcntl.flock(mine, fcntl.LOCK_EX)
                got.append(name)

        with held(file.name, "flock") as release:
            threads = [
                threading.Thread(target=take, args=args)
                for args in [("first", 0.01), ("second", 0.02), ("third", 60)]
            ]
            for thread in threads:
                thread.start()
            for thread in threads[:2]:
                thread.join()
            heart.after_ticks(release)
            threads[2].join()
        assert got == ["third"]


def test_a_descriptor_that_is_closed_ends_the_wait() -> None:
    with tempfile.NamedTemporaryFile() as file, held(file.name, "flock"):
        fd = os.open(file.name, os.O_RDWR)
        errors: list[OSError] = []

        def take() -> None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0)
        os.close(fd)
        # The number's next owner is not meant.
        with tempfile.TemporaryFile() as other:
            assert other.fileno() == fd
            thread.join()
        assert [error.errno for error in errors] == [errno.EBADF]


def test_a_part_is_locked_where_it_was_when_asked() -> None:
    with tempfile.NamedTemporaryFile() as file, heartbeat() as heart:
        file.write(bytes(100))
        file.flush()
        with held(file.name, "lockf") as release, open(file.name, "r+b") as mine:
            mine.seek(50)
            thread = threading.Thread(
                target=fcntl.lockf, args=(mine, fcntl.LOCK_EX, 10, 5, os.SEEK_CUR)
            )
            thread.start()
            time.sleep(0)
            mine.seek(0)
            heart.after_ticks(release)
            thread.join()
            ask = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            code = (
                "import fcntl, struct, sys; file = open(sys.argv[1], 'r+')\n"
                "lock = fcntl.fcntl(file, fcntl.F_GETLK, bytes.fromhex(sys.argv[2]))\n"
                "print(*struct.unpack('hhqqi', lock)[2:4])"
            )
            output = subprocess.check_output(
                [sys.executable, "-S", "-c", code, file.name, ask.hex()]
            )
            assert output.split() == [b"55", b"10"]


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLKW"), reason="since Python 3.9, on Linux")
def test_locks_of_open_files_exclude_each_other_in_one_process() -> None:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with tempfile.NamedTemporaryFile() as file, open(file.name, "r+b") as other:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, lock)
        order: list[str] = []

        def take() -> None:
            assert fcntl.fcntl(other, fcntl.F_OFD_SETLKW, lock) == lock
            order.append("taken")

        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0)
        order.append("released")
        unlock = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, unlock)
        thread.join()
        assert order == ["released", "taken"]


def test_the_child_of_a_fork_waits_for_itself() -> None:
    with tempfile.NamedTemporaryFile() as file, held(file.name, "flock") as release:

        def take() -> None:
            with open(file.name) as mine:
                fcntl.flock(mine, fcntl.LOCK_EX)
                # To close the file is not enough: the child has it open, too.
                fcntl.flock(mine, fcntl.LOCK_UN)

        # The parent's turn is not the child's: its thread is not there to end it.
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0)
        pid = os.fork()
        if pid == 0:
            release()
            take()
            os._exit(7)
        release()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_wrong_arguments() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.flock(10_000, fcntl.LOCK_EX)
    with pytest.raises(TypeError):
        fcntl.flock("x", fcntl.LOCK_EX)  # type: ignore[arg-type]
    with tempfile.TemporaryFile() as file:
        assert fcntl.fcntl(file, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
