"""Child processes, and their pipes as streams."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from signal import Signals
from typing import IO, Any

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, abc
from anyio._core._synchronization import ResourceGuard

from ... import _core
from ..._core import CancelScope
from .sockets import notify_closing, wait_for_descriptor


class _Pipe:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._fd = file.fileno()
        self._closed = False
        self._guard = ResourceGuard("using")
        os.set_blocking(self._fd, False)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            notify_closing(self._fd)
            self._file.close()
        await _core.Checkpoint()

    def __del__(self) -> None:
        # Like other streams over descriptors, it need not be closed.
        if not self._closed:
            self._file.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedResourceError


class ReceivePipe(_Pipe, abc.ByteReceiveStream):
    """The reading end of a child's output."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        with self._guard:
            while True:
                self._check_open()
                try:
                    data = os.read(self._fd, max_bytes)
                except BlockingIOError:
                    await wait_for_descriptor(self._fd, False)
                    continue
                except OSError as error:
                    raise BrokenResourceError from error
                if not data:
                    raise EndOfStream
                await _core.Checkpoint()
                return data


class SendPipe(_Pipe, abc.ByteSendStream):
    """The writing end of a child's input."""

    async def send(self, item: bytes) -> None:
        with self._guard:
            await _core.Checkpoint()
            view = memoryview(item)
            while view:
                self._check_open()
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await wait_for_descriptor(self._fd, True)
                except OSError as error:
                    raise BrokenResourceError from error


async def _wait_for_end(pid: int) -> None:
    """Waits until a child, which has not been waited for, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # An old kernel, or none that lets us.
        _core.wait_child(os.P_PID, pid, os.WEXITED)
        return
    try:
        await _core.descriptor_wait(descriptor, False)
    finally:
        os.close(descriptor)


class Process(abc.Process):
    """`anyio.abc.Process`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stdin = None if process.stdin is None else SendPipe(process.stdin)
        self._stdout = None if process.stdout is None else ReceivePipe(process.stdout)
        self._stderr = None if process.stderr is None else ReceivePipe(process.stderr)

    async def aclose(self) -> None:
        with CancelScope(shield=True):
            for stream in (self._stdin, self._stdout, self._stderr):
                if stream is not None:
                    await stream.aclose()
        try:
            await self.wait()
        except BaseException:
            self.kill()
            with CancelScope(shield=True):
                await self.wait()
            raise

    async def wait(self) -> int:
        await _core.Checkpoint()
        while True:
            status = self._process.poll()
            if status is not None:
                return status
            await _wait_for_end(self._process.pid)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, signal: Signals) -> None:
        self._process.send_signal(signal)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    @property
    def stdin(self) -> abc.ByteSendStream | None:
        return self._stdin

    @property
    def stdout(self) -> abc.ByteReceiveStream | None:
        return self._stdout

    @property
    def stderr(self) -> abc.ByteReceiveStream | None:
        return self._stderr


async def open_process(command: Any, **options: Any) -> Process:
    """Starts a process; a string is a command line for the shell."""
    await _core.Checkpoint()
    shell = isinstance(command, (str, bytes, os.PathLike))
    arguments = command if not isinstance(command, Sequence) or shell else list(command)
    return Process(subprocess.Popen(arguments, shell=shell, bufsize=0, **options))


async def kill_at_shutdown(workers: set[abc.Process]) -> None:
    """Waits for the end of the program, and then ends the processes of anyio's pool."""
    try:
        await _core.Sleep(float("inf"))
    finally:
        with CancelScope(shield=True):
            for process in workers:
                if process.returncode is None:
                    process.kill()
            for process in workers:
                await process.aclose()
