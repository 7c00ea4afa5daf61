"""Files on sockets, and files through sockets: `makefile` and `sendfile`."""

from __future__ import annotations

import io
import os
import socket
import tempfile
from typing import Any

import pytest

from tests.monkey.threads import later, started


def test_makefile_reads_writes_and_times_out() -> None:
    left, right = socket.socketpair()
    with left, right, left.makefile("rwb") as file, right.makefile("r", encoding="ascii") as text:
        assert isinstance(file, io.BufferedRWPair)
        file.write(b"one\ntwo\n")
        later(file.flush)
        assert text.readline() == "one\n"
        assert text.readline() == "two\n"
        left.settimeout(0.001)
        with pytest.raises(TimeoutError):
            file.read(1)
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.read(1)


def test_a_raw_file_says_what_the_original_says() -> None:
    left, right = socket.socketpair()
    with left, right:
        reader = socket.SocketIO(left, "r")
        writer = socket.SocketIO(left, "w")
        buffer = bytearray(4)
        with pytest.raises(io.UnsupportedOperation):
            reader.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            writer.readinto(buffer)
        with pytest.raises(TypeError, match="read-write bytes-like object"):
            reader.readinto(b"1234")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="bytes-like object"):
            writer.write("text")  # type: ignore[arg-type]
        assert writer.write(bytearray(b"one")) == 3
        assert right.recv(4) == b"one"
        later(right.sendall, b"answer")
        assert reader.readinto(buffer) == 4
        assert reader.readinto(memoryview(buffer)[1:3]) == 2
        assert buffer == b"aerw"
        left.setblocking(False)
        assert reader.readinto(buffer) is None
        while writer.write(bytes(1 << 16)) is not None:
            pass
        left.settimeout(0.001)
        with pytest.raises(TimeoutError):
            reader.readinto(buffer)
        with pytest.raises(OSError, match="cannot read from timed out object"):
            reader.readinto(buffer)
        # Closed in the eyes of `io` only.
        other = socket.SocketIO(left, "rw")
        io.RawIOBase.close(other)
        with pytest.raises(ValueError, match="closed"):
            other.readinto(buffer)
        with pytest.raises(ValueError, match="closed"):
            other.write(b"x")


def test_a_raw_file_calls_what_somebody_put_in_the_class() -> None:
    monkeypatch = pytest.MonkeyPatch()

    class Shouting(socket.SocketIO):
        def readable(self) -> bool:
            calls.append("readable")
            return super().readable()

    calls: list[str] = []
    left, right = socket.socketpair()
    with left, right:
        reader, buffer = socket.SocketIO(left, "r"), bytearray(4)
        right.sendall(b"12")
        assert reader.readinto(buffer) == 2
        original = socket.socket.recv_into

        def recv_into(self: socket.socket, *args: Any) -> int:
            calls.append("recv_into")
            return original(self, *args)

        monkeypatch.setattr(socket.socket, "recv_into", recv_into)
        right.sendall(b"12")
        assert reader.readinto(buffer) == 2
        monkeypatch.undo()
        right.sendall(b"12")
        assert reader.readinto(buffer) == 2
        assert calls == ["recv_into"]
        right.sendall(b"12")
        assert Shouting(left, "r").readinto(buffer) == 2
        assert calls == ["recv_into", "readable"]


def test_a_file_keeps_a_closed_socket_open() -> None:
    left, right = socket.socketpair()
    with right:
        file = left.makefile("rb")
        left.close()
        later(right.sendall, b"line\n")
        assert file.readline() == b"line\n"
        file.close()
        assert right.recv(1) == b""
    assert left.fileno() == -1


def test_sendfile_sends_files_of_each_kind() -> None:
    content = os.urandom(1 << 18)
    with tempfile.TemporaryFile() as regular:
        regular.write(content)
        regular.flush()
        for file, offset, count in (
            (regular, 0, None),
            (regular, 1000, None),
            (regular, 1000, 70000),
            (io.BytesIO(content), 0, None),
            (io.BytesIO(content), 5, 10),
        ):
            left, right = socket.socketpair()
            received = bytearray()

            def drain(sock: socket.socket, into: bytearray) -> None:
                while chunk := sock.recv(1 << 16):
                    into += chunk

            with right:
                with left:
                    thread = started(drain, right, received)
                    sent = left.sendfile(file, offset, count)
                thread.join()
            expected = content[offset:] if count is None else content[offset : offset + count]
            assert (sent, bytes(received)) == (len(expected), expected)
            assert file.tell() == offset + sent
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(ValueError, match="count must be a positive integer"):
            left.sendfile(io.BytesIO(), 0, -1)
        with open(os.devnull) as text:
            with pytest.raises(ValueError, match="file should be opened in binary mode"):
                left.sendfile(text)  # type: ignore[arg-type]
        left.setblocking(False)
        with pytest.raises(ValueError, match="non-blocking sockets are not supported"):
            left.sendfile(io.BytesIO(b"x"))
