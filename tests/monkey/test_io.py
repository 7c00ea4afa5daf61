"""`io`: files on pipes, terminals and FIFOs."""

# ruff: noqa: B023, SIM115 - what a loop starts ends within the same turn of it, and so do files

from __future__ import annotations

import io
import os
import pty
import socket
import subprocess
import sys
import tempfile
import threading
import tty
from pathlib import Path

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat

ROOT = Path(__file__).parents[2]


def pipe(buffering: int = -1) -> tuple[io.BufferedReader, io.BufferedWriter]:
    reader, writer = os.pipe()
    return open(reader, "rb", buffering), open(writer, "wb", buffering)  # type: ignore[return-value]


def test_reading_waits_while_others_run() -> None:
    reader, writer = pipe()
    raw_reader, raw_writer = pipe(buffering=0)
    with reader, writer, raw_reader, raw_writer, heartbeat() as heart:
        assert type(reader) is io.BufferedReader
        assert type(raw_reader) is io.FileIO

        def say(data: bytes) -> None:
            writer.write(data)
            writer.flush()
            raw_writer.write(data)

        heart.after_ticks(lambda: say(b"hello\n"))
        assert reader.readline() == raw_reader.readline() == b"hello\n"
        heart.after_ticks(lambda: say(b"abcdef"))
        buffer = bytearray(3)
        assert reader.read(2) == raw_reader.read(2) == b"ab"
        assert reader.readinto(buffer) == raw_reader.readinto(buffer) == 3
        assert buffer == b"cde"
        assert reader.peek() == b"f"
        assert reader.read1() == raw_reader.read(100) == b"f"
        heart.after_ticks(lambda: (say(b"rest"), writer.close(), raw_writer.close()))
        assert reader.read() == raw_reader.readall() == b"rest"  # type: ignore[attr-defined]
        assert reader.read() == raw_reader.read() == b""


def test_writing_waits_while_others_run() -> None:
    for buffering in (-1, 0):
        reader, writer = pipe(buffering)
        data = os.urandom(500_000)
        with reader, heartbeat() as heart:
            received: list[bytes] = []
            thread = threading.Thread(target=lambda: received.append(reader.read()))
            heart.after_ticks(thread.start)
            assert writer.write(data) == len(data)
            writer.close()
            thread.join()
            assert received == [data]


def test_threads_share_a_buffered_file() -> None:
    reader, writer = pipe()
    with reader, writer, heartbeat() as heart:
        lines: list[bytes] = []
        threads = [
            threading.Thread(target=lambda read=read: lines.append(read(reader)))
            for read in (io.BufferedReader.readline, next, lambda file: file.read(2))
        ]
        for thread in threads:
            thread.start()
        for data in (b"a\n", b"b\n", b"c\n"):
            heart.after_ticks(lambda data=data: (writer.write(data), writer.flush()))  # type: ignore[misc]
        for thread in threads:
            thread.join()
        assert lines == [b"a\n", b"b\n", b"c\n"]


def test_threads_print_to_a_full_pipe() -> None:
    reader, writer = os.pipe()
    text = open(writer, "w", buffering=1)
    lines = [str(n) * 5000 for n in range(10)] * 3

    def say(line: str) -> None:
        print(line, file=text)

    with open(reader) as source, heartbeat() as heart:
        threads = [threading.Thread(target=say, args=(line,)) for line in lines]
        for thread in threads:
            thread.start()
        got: list[str] = []
        collector = threading.Thread(target=lambda: got.extend(source))
        heart.after_ticks(collector.start)
        for thread in threads:
            thread.join()
        text.close()
        collector.join()
        assert sorted("".join(got)) == sorted("".join(line + "\n" for line in lines))


def test_a_real_thread_shares_a_buffered_file() -> None:
    reader, writer = pipe()
    with reader, writer, heartbeat() as heart:
        lines: list[bytes] = []
        inside = threading.Event()

        def read() -> None:
            inside.set()
            lines.append(reader.readline())

        thread = threading.Thread._aevent_orig(target=read)  # type: ignore[attr-defined]
        thread.start()
        inside.wait()
        heart.after_ticks(lambda: (writer.write(b"a\nb\n"), writer.flush()))
        lines.append(reader.readline())
        thread.join()
        assert sorted(lines) == [b"a\n", b"b\n"]


def test_a_call_from_inside_is_refused_as_it_always_was() -> None:
    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            reader.read(1)
            return 0

    reader = io.BufferedReader(Raw())
    with pytest.raises(RuntimeError, match="reentrant call inside"):
        reader.read(1)


def test_a_raw_file_of_python_code_may_wait() -> None:
    turn = threading.Semaphore(0)

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            turn.acquire()
            buffer[:2] = b"x\n"
            return 2

    reader = io.BufferedReader(Raw())
    lines: list[bytes] = []
    threads = [threading.Thread(target=lambda: lines.append(reader.readline())) for _ in range(3)]
    for thread in threads:
        thread.start()
    turn.release(3)
    for thread in threads:
        thread.join()
    assert lines == [b"x\n"] * 3


def test_both_ends_of_a_socket_file_at_once() -> None:
    left, right = socket.socketpair()
    with left, right, left.makefile("rb") as reader, heartbeat() as heart:
        lines: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: lines.append(reader.readline())) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        heart.after_ticks(lambda: right.sendall(b"a\nb\n"))
        for thread in threads:
            thread.join()
        assert lines == [b"a\n", b"b\n"]
        with open(os.dup(left.fileno()), "rb", 0) as raw:
            heart.after_ticks(lambda: right.sendall(b"hello"))
            assert raw.read(100) == b"hello"


def test_waits_are_cancelled_and_the_file_is_good_afterwards() -> None:
    reader, writer = pipe()
    with reader, writer:
        for call in (reader.read, reader.readline, lambda: next(reader)):
            with aevent.move_on_after(0.002) as scope:
                call()
            assert scope.cancelled_caught
        with aevent.move_on_after(0.002) as scope:
            writer.write(bytes(1_000_000))
        assert scope.cancelled_caught
        assert len(reader.read(60_000)) == 60_000
        os.set_blocking(reader.fileno(), False)
        while reader.read1():
            pass
        os.set_blocking(reader.fileno(), True)
        writer.write(b"the end")
        writer.close()
        assert reader.read() == b"the end"


def test_non_blocking_files_do_not_wait() -> None:
    for buffering in (0, -1):
        reader, writer = pipe(buffering)
        os.set_blocking(reader.fileno(), False)
        os.set_blocking(writer.fileno(), False)
        with reader:
            assert reader.read() is None
            assert reader.read(5) is None
            assert reader.readinto(bytearray(5)) is None
            writer.write(b"hello")
            writer.flush()
            assert reader.read() == b"hello"
            if buffering == 0:
                assert writer.write(bytes(1_000_000)) == 65536
                assert writer.write(bytes(10)) is None
            else:
                with pytest.raises(BlockingIOError):
                    writer.write(bytes(1_000_000))
            while reader.read():
                pass
            writer.close()


def test_closing_an_unbuffered_file_wakes_who_waits_for_it() -> None:
    reader, writer = pipe(buffering=0)
    with writer, heartbeat() as heart:
        heart.after_ticks(reader.close)
        with pytest.raises(OSError, match="Bad file descriptor"):
            reader.read(1)


def test_closed_and_wrong_files_say_what_they_always_say() -> None:
    reader, writer = pipe(buffering=0)
    with pytest.raises(io.UnsupportedOperation, match="not open for reading"):
        writer.read(1)
    with pytest.raises(io.UnsupportedOperation, match="not open for writing"):
        reader.write(b"x")
    with pytest.raises(TypeError):
        writer.write("text")  # type: ignore[arg-type]
    reader.close()
    writer.close()
    for call in (reader.read, lambda: reader.readinto(bytearray(1)), lambda: writer.write(b"x")):
        with pytest.raises(ValueError, match="closed file"):
            call()


def test_opening_a_fifo() -> None:
    with tempfile.TemporaryDirectory() as folder, heartbeat() as heart:
        path = Path(folder) / "fifo"
        os.mkfifo(path)
        heart.after_ticks(lambda: path.write_text("hello"))
        assert path.read_text() == "hello"
        text: list[str] = []

        def read() -> None:
            with open(str(path)) as file:
                text.append(file.read())

        thread = threading.Thread(target=read)
        heart.after_ticks(thread.start)
        with open(os.fsencode(path), "wb") as file:
            assert file.name == os.fsencode(path)
            file.write(b"again")
        thread.join()
        assert text == ["again"]


def test_regular_files_and_devices() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"line\n" * 1000)
        with open(path, "r+b") as file:
            assert file.readline() == b"line\n"
            assert len(list(file)) == 999
            file.seek(0)
            file.write(b"LINE")
            file.seek(0)
            assert file.read(4) == b"LINE"
    with open("/dev/null", "wb") as null, open("/dev/zero", "rb") as zero:
        null.write(zero.read(100_000))


def test_a_terminal() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    with open(master, "r+b", 0) as there, open(slave, "r+b", 0) as here, heartbeat() as heart:
        heart.after_ticks(lambda: there.write(b"hello\n"))
        assert here.readline() == b"hello\n"
        heart.after_ticks(lambda: here.write(b"hello\n"))
        assert there.readline() == b"hello\n"


PROGRAM = """
import aevent, sys
aevent.setup(sys.argv[1])
import os, threading, time
def main():
    def beat():
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.001)
        print("<ticking>", flush=True)
    thread = threading.Thread(target=beat)
    thread.start()
    print(repr(input("name? ")), flush=True)
    print(repr(sys.stdin.readline()), flush=True)
    print([line for line in sys.stdin], flush=True)
    thread.join()
    print("over")
aevent.run(main)
"""


@pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
@pytest.mark.parametrize("terminal", [False, True])
def test_standard_input(backend: str, terminal: bool, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    ends = (slave, slave) if terminal else (subprocess.PIPE, subprocess.PIPE)
    asked = tmp_path / "asked"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, backend, str(asked)],
        stdin=ends[0],
        stdout=ends[1],
        cwd=ROOT,
    )
    with process:
        os.close(slave)
        sink = master if terminal else process.stdin.fileno()  # type: ignore[union-attr]
        source = master if terminal else process.stdout.fileno()  # type: ignore[union-attr]
        text = b""

        def until(expected: bytes) -> None:
            nonlocal text
            while expected not in text:
                data = os.read(source, 1000)
                assert data, text
                text += data

        until(b"name? ")
        asked.touch()
        until(b"<ticking>")  # while input() waits
        os.write(sink, b"me\n")
        until(b"'me'")
        os.write(sink, b"you\n")
        until(b"'you\\n'")
        os.write(sink, b"a\nb\n")
        if terminal:
            os.write(sink, b"\x04")
        else:
            process.stdin.close()  # type: ignore[union-attr]
        until(b"over")
        assert b"['a\\n', 'b\\n']" in text
        assert process.wait(30) == 0
        if not terminal:
            process.stdout.close()  # type: ignore[union-attr]
    os.close(master)


def test_where_a_buffered_object_says_who_is_inside_is_found(tmp_path: Path) -> None:
    code = "from aevent._monkey import io; assert io.find_owner() is not None"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
