"""`os`: pipes, terminals, FIFOs and child processes."""

# ruff: noqa: B023 - what a loop starts ends within the same turn of it

from __future__ import annotations

import errno
import os
import pickle
import pty
import signal
import socket
import tempfile
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import aevent
from tests.monkey.descriptors import pipe
from tests.monkey.heartbeat import TICKS, heartbeat
from tests.monkey.threads import later


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def child(fn: Callable[[], object]) -> int:
    """A forked process that calls `fn` and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            fn()
        finally:
            os._exit(0)
    return pid


def test_a_read_waits_for_data_while_others_run() -> None:
    left, right = socket.socketpair()
    pipes = pipe()
    with (
        pipes as (reader, writer),
        terminal() as (master, slave),
        left,
        right,
        heartbeat() as heart,
    ):
        for source, sink in ((reader, writer), (master, slave), (slave, master)):
            heart.after_ticks(lambda sink=sink: os.write(sink, b"hello"))  # type: ignore[misc]
            assert os.read(source, 100) == b"hello"
            assert os.get_blocking(source)
            assert os.get_blocking(sink)
        heart.after_ticks(lambda: os.write(left.fileno(), b"hello"))
        assert os.read(right.fileno(), 100) == b"hello"


def test_the_end_is_read_as_nothing() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        heart.after_ticks(lambda: os.close(writer))
        assert os.read(reader, 100) == b""
        assert os.read(reader, 100_000) == b""


def test_a_write_of_more_than_fits_is_written_whole() -> None:
    data = os.urandom(1_000_000)
    for kind in (pipe, terminal):
        with kind() as (reader, writer), heartbeat() as heart:
            received = bytearray()
            total = len(data) if kind is pipe else 20_000

            def receive() -> None:
                while len(received) < total:
                    received.extend(os.read(reader, 8192))

            thread = threading.Thread(target=receive)
            heart.after_ticks(thread.start)
            assert os.write(writer, data[:total]) == total
            thread.join()
            assert bytes(received) == data[:total]
            assert heart.ticks >= TICKS
            assert os.get_blocking(writer)


def test_vectors() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        heart.after_ticks(lambda: os.writev(writer, [b"abc", b"", b"defg"]))
        first, second = bytearray(2), bytearray(10)
        assert os.readv(reader, [first, second]) == 7
        assert first + second[:5] == b"abcdefg"
        big = os.urandom(300_000)
        received = bytearray()

        def receive() -> None:
            while len(received) < 3 * len(big):
                received.extend(os.read(reader, 65536))

        thread = threading.Thread(target=receive)
        heart.after_ticks(thread.start)
        assert os.writev(writer, [big, memoryview(big), bytearray(big)]) == 3 * len(big)
        thread.join()
        assert bytes(received) == 3 * big


def test_a_non_blocking_descriptor_does_not_wait() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        buffer = bytearray(1)
        with pytest.raises(BlockingIOError):
            os.readv(reader, [buffer])
        assert 0 < os.write(writer, bytes(10_000_000)) < 10_000_000
        with pytest.raises(BlockingIOError):
            os.write(writer, bytes(10_000_000))


def test_wrong_arguments_are_refused_in_the_words_of_the_original() -> None:
    with pipe() as (reader, writer):
        for call in (
            lambda: os.read(reader),  # type: ignore[call-arg]
            lambda: os.read(reader, "1"),  # type: ignore[arg-type]
            lambda: os.read("1", 1),  # type: ignore[arg-type]
            lambda: os.write(writer, "text"),  # type: ignore[arg-type]
            lambda: os.writev(writer, 5),  # type: ignore[arg-type]
            lambda: os.close(),  # type: ignore[call-arg]
        ):
            with pytest.raises(TypeError) as ours:
                call()
            with aevent.native(), pytest.raises(TypeError) as theirs:
                call()
            assert str(ours.value) == str(theirs.value)
    for call in (lambda: os.read(-1, 1), lambda: os.write(-1, b"x"), lambda: os.close(-1)):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == errno.EBADF
    with pipe() as (reader, writer):
        with pytest.raises(OSError) as error:
            os.read(writer, 1)
        assert error.value.errno == errno.EBADF
        with pytest.raises(OSError) as error:
            os.read(reader, -1)
        assert error.value.errno == errno.EINVAL
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")


def test_whoever_waits_for_a_descriptor_that_is_closed_is_told() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        heart.after_ticks(lambda: os.close(reader))
        with pytest.raises(OSError) as error:
            os.read(reader, 1)
        assert error.value.errno == errno.EBADF
        again = os.dup(writer)
        os.close(again)


def test_a_read_is_cancelled() -> None:
    with pipe() as (reader, writer):
        with aevent.move_on_after(0.002) as scope:
            os.read(reader, 1)
        assert scope.cancelled_caught
        os.write(writer, b"x")
        assert os.read(reader, 2) == b"x"


def test_a_write_that_is_cancelled_in_the_middle_says_how_much_it_wrote() -> None:
    with pipe() as (reader, writer):
        with aevent.CancelScope() as scope:
            later(scope.cancel)
            count = os.write(writer, bytes(1_000_000))
            assert 0 < count < 1_000_000
            # The next call that waits is told.
            os.write(writer, b"x")
            pytest.fail("was not cancelled")
        assert scope.cancelled_caught
        assert len(os.read(reader, 1_000_000)) == count


def test_functions_are_pickled_by_name() -> None:
    for function in (os.read, os.write, os.waitpid, os.open, open):
        assert pickle.loads(pickle.dumps(function)) is function
    assert os.open in os.supports_dir_fd


def test_opening_a_fifo_waits_for_the_other_end() -> None:
    with tempfile.TemporaryDirectory() as folder, heartbeat() as heart:
        path = Path(folder) / "fifo"
        os.mkfifo(path)
        opened: list[int] = []
        heart.after_ticks(lambda: opened.append(os.open(path, os.O_WRONLY)))
        reader = os.open(path, os.O_RDONLY)
        assert not os.get_inheritable(reader)
        assert os.get_blocking(reader)
        while not opened:
            threading.Event().wait(0.001)
        os.write(opened[0], b"x")
        assert os.read(reader, 10) == b"x"
        os.close(reader)
        os.close(opened[0])

        directory = os.open(folder, os.O_RDONLY)
        heart.after_ticks(lambda: opened.append(os.open("fifo", os.O_RDONLY, dir_fd=directory)))
        writer = os.open("fifo", os.O_WRONLY, dir_fd=directory)
        for fd in (directory, writer):
            os.close(fd)
        while len(opened) < 2:
            threading.Event().wait(0.001)
        os.close(opened[1])


def test_giving_up_opening_a_fifo_leaves_no_reader_behind() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY)):
            # A FIFO for each: who was left behind at one may still be there for a moment.
            path = Path(folder) / str(number)
            os.mkfifo(path)
            with aevent.move_on_after(0.002) as scope:
                os.open(path, flags)
            assert scope.cancelled_caught
        # The thread that was left behind lets go of it in its own time.
        for _ in range(20_000):
            try:
                os.close(os.open(Path(folder) / "0", os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            threading.Event().wait(0.001)
        else:
            pytest.fail("a reader is still there")


def test_waiting_for_a_child() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        for wait in (
            lambda pid: os.waitpid(pid, 0),
            lambda pid: os.waitpid(-1, 0),
            lambda pid: os.waitpid(0, 0),
            lambda pid: os.wait(),
            lambda pid: os.wait3(0)[:2],
            lambda pid: os.wait4(pid, 0)[:2],
        ):
            pid = child(lambda: os._exit(os.read(reader, 1)[0]))
            heart.after_ticks(lambda: os.write(writer, b"\x07"))
            assert wait(pid) == (pid, 0x700)
            with pytest.raises(ChildProcessError):
                wait(pid)


def test_waiting_for_a_group_and_for_stops() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        pid = child(lambda: (os.setpgid(0, 0), os.read(reader, 1)))
        try:
            os.setpgid(pid, pid)
        except PermissionError:
            pass
        heart.after_ticks(lambda: os.kill(pid, signal.SIGSTOP))
        found, status = os.waitpid(-pid, os.WUNTRACED)
        assert found == pid
        assert os.WIFSTOPPED(status)
        heart.after_ticks(lambda: os.kill(pid, signal.SIGCONT))
        found, status = os.waitpid(pid, os.WCONTINUED)
        assert os.WIFCONTINUED(status)
        heart.after_ticks(lambda: os.write(writer, b"x"))
        result = os.waitid(os.P_PGID, pid, os.WEXITED | os.WNOWAIT)
        assert result is not None and result.si_pid == pid
        assert os.waitid(os.P_PID, pid, os.WEXITED).si_pid == pid  # type: ignore[union-attr]
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED)


def test_a_pidfd_is_waited_for() -> None:
    if not hasattr(os, "pidfd_open"):
        return
    with pipe() as (reader, writer), heartbeat() as heart:
        pid = child(lambda: os.read(reader, 1))
        fd = os.pidfd_open(pid)
        heart.after_ticks(lambda: os.write(writer, b"x"))
        result = os.waitid(os.P_PIDFD, fd, os.WEXITED)
        assert result is not None and result.si_pid == pid
        os.close(fd)


def test_nobody_is_reaped_who_was_not_asked_for() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        bystander = child(lambda: None)
        other = child(lambda: os.read(reader, 1))
        heart.after_ticks(lambda: os.write(writer, b"x"))
        assert os.waitpid(other, 0) == (other, 0)
        with aevent.native():
            assert os.waitpid(bystander, 0) == (bystander, 0)


def test_several_threads_wait_for_one_child() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        pid = child(lambda: os.read(reader, 1))
        outcomes: list[object] = []

        def wait() -> None:
            try:
                outcomes.append(os.waitpid(pid, 0)[0])
            except ChildProcessError:
                outcomes.append(None)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        heart.after_ticks(lambda: os.write(writer, b"x"))
        for thread in threads:
            thread.join()
        assert sorted(outcomes, key=str) == sorted([pid, None, None], key=str)


def test_waits_for_any_child_that_were_given_up_take_no_threads() -> None:
    with pipe() as (reader, writer), heartbeat() as heart:
        pid = child(lambda: os.read(reader, 1))
        before = len(os.listdir("/proc/self/task"))
        for _ in range(20):
            with aevent.move_on_after(0.001) as scope:
                os.wait()
            assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/task")) <= before + 1
        heart.after_ticks(lambda: os.write(writer, b"x"))
        assert os.wait() == (pid, 0)


def test_a_forked_child_waits_for_its_own_children() -> None:
    with pipe() as (reader, writer):
        sibling = child(lambda: os.read(reader, 1))
        # The loop goes on asking, with a thread that the child does not have.
        with aevent.move_on_after(0.001):
            os.wait()

        def wait() -> None:
            with pipe() as (own_reader, own_writer):
                grandchild = child(lambda: os.read(own_reader, 1))
                threading.Timer(0.01, os.write, (own_writer, b"x")).start()
                os._exit(7 if os.wait() == (grandchild, 0) else 1)

        pid = child(wait)
        assert os.waitpid(pid, 0) == (pid, 0x700)
        os.write(writer, b"x")
        assert os.wait() == (sibling, 0)


def test_not_waiting_for_a_child_does_not_wait() -> None:
    with pipe() as (reader, writer):
        pid = child(lambda: os.read(reader, 1))
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        assert os.wait3(os.WNOHANG)[:2] == (0, 0)
        assert os.wait4(-1, os.WNOHANG)[:2] == (0, 0)
        assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None
        os.write(writer, b"x")
        assert os.waitpid(pid, 0)[0] == pid


def test_system_popen_and_spawn() -> None:
    with tempfile.TemporaryDirectory() as folder, heartbeat() as heart:
        path = Path(folder) / "fifo"
        os.mkfifo(path)

        def release() -> None:
            path.write_text("go")

        heart.after_ticks(release)
        assert os.waitstatus_to_exitcode(os.system(f"read line < {path}; exit 3")) == 3
        heart.after_ticks(release)
        with os.popen(f"cat {path}") as file:
            assert file.read() == "go"
        heart.after_ticks(release)
        assert os.spawnlp(os.P_WAIT, "sh", "sh", "-c", f"read line < {path}; exit 4") == 4


def test_a_system_command_can_be_interrupted_like_any() -> None:
    # The threads of the pool block signals, and a command must not inherit that.
    assert os.waitstatus_to_exitcode(os.system("kill -TERM $$")) in (-15, 143)


def test_sendfile_to_a_socket_that_is_full() -> None:
    left, right = socket.socketpair()
    with tempfile.TemporaryFile() as file, left, right, heartbeat() as heart:
        data = os.urandom(2_000_000)
        file.write(data)
        file.flush()
        received = bytearray()

        def receive() -> None:
            while len(received) < len(data):
                received.extend(right.recv(65536))

        thread = threading.Thread(target=receive)
        heart.after_ticks(thread.start)
        assert os.sendfile(left.fileno(), file.fileno(), 0, len(data)) == len(data)
        thread.join()
        assert bytes(received) == data
        assert os.get_blocking(left.fileno())


def test_splice_and_eventfd() -> None:
    if not hasattr(os, "splice"):
        return
    with pipe() as (reader, writer), pipe() as (source, sink), heartbeat() as heart:
        heart.after_ticks(lambda: os.write(sink, b"hello"))
        assert os.splice(source, writer, 100) == 5
        assert os.read(reader, 10) == b"hello"
        counter = os.eventfd(0)
        heart.after_ticks(lambda: os.eventfd_write(counter, 3))
        assert os.eventfd_read(counter) == 3
        os.close(counter)


def test_pty_in_the_obvious_way() -> None:
    with heartbeat() as heart:
        pid, master = pty.fork()
        if pid == 0:
            os.execvp("sh", ["sh", "-c", "read line; echo got $line"])
        heart.after_ticks(lambda: os.write(master, b"hello\n"))
        text = b""
        while b"got hello" not in text:
            text += os.read(master, 1024)
        assert os.waitpid(pid, 0) == (pid, 0)
        os.close(master)


def test_a_real_thread_calls_the_originals() -> None:
    with pipe() as (reader, writer):
        got: list[bytes] = []
        thread = threading.Thread._aevent_orig(target=lambda: got.append(os.read(reader, 10)))  # type: ignore[attr-defined]
        thread.start()
        os.write(writer, b"x")
        thread.join()
        assert got == [b"x"]


def test_a_forked_child_reads_and_writes() -> None:
    with pipe() as (reader, writer), pipe() as (back, answer), heartbeat():
        pid = child(lambda: os.write(answer, os.read(reader, 10) * 2))
        os.write(writer, b"ab")
        assert os.read(back, 10) == b"abab"
        assert os.waitpid(pid, 0) == (pid, 0)


def test_forking_warns_of_real_threads_only(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import os, pty, threading, time, warnings
import socket

def forks():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        child, fd = pty.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        os.close(fd)
    return [warning.filename for warning in caught]

def main():
    socket.getaddrinfo("localhost", 80)  # done by a helper
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    assert forks() == [], "of our own"
    release = threading.Event()
    with aevent.native():
        real = threading.Thread(target=release.wait)
        real.start()
    expected = [__file__, pty.__file__] if sys.version_info >= (3, 12) else []
    assert forks() == expected, expected
    release.set()
    real.join()

aevent.run(main)
"""
    fresh_ok(script, backend)
