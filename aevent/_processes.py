"""Child processes for async code. Names and semantics anyio's.

Synchronous code has `subprocess`, which cooperates after `setup()`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from . import to_thread
from ._backend import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled
from ._core import CancelScope
from ._descriptors import notify_closing, wait_readable, wait_writable
from ._exceptions import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from ._task_groups import TaskGroup

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Target = int | IO[Any] | None


class _Pipe:
    """Our end of a child's pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        # The descriptor alone: the file object would close it behind the back of those who wait.
        self._fd = os.dup(file.fileno())
        file.close()
        os.set_inheritable(self._fd, False)
        # Our end is an open file of its own, which the child does not have.
        os.set_blocking(self._fd, False)
        self._busy = False

    def fileno(self) -> int:
        """The descriptor; -1 when it is closed."""
        return self._fd

    def close(self) -> None:
        """Closes it. Who waits for it is told. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            notify_closing(fd)
            os.close(fd)

    async def aclose(self) -> None:
        """Closes it. A checkpoint."""
        self.close()
        await checkpoint()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _begin(self) -> int:
        if self._fd < 0:
            raise ClosedResourceError("this pipe is closed")
        if self._busy:
            raise BusyResourceError("another task is already using this pipe")
        return self._fd

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"fd {self._fd}"
        return f"<aevent.{type(self).__name__}, {state}>"


class ReceivePipe(_Pipe):
    """What a child writes: `stdout` or `stderr` of a `Process`."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Waits for something to be written, and returns up to `max_bytes` of it. A checkpoint.

        `EndOfStream` when the child has closed its end; `ClosedResourceError` if this one is
        closed, also during the wait; `BusyResourceError` if another task receives.
        """
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive, not {max_bytes!r}")
        await checkpoint_if_cancelled()
        self._begin()
        self._busy = True
        try:
            while True:
                if self._fd < 0:
                    raise ClosedResourceError("this pipe is closed")
                try:
                    data = os.read(self._fd, max_bytes)
                except BlockingIOError:
                    await wait_readable(self._fd)
                    continue
                break
        finally:
            self._busy = False
        await cancel_shielded_checkpoint()
        if not data:
            raise EndOfStream("the child has closed its end of this pipe")
        return data

    def __aiter__(self) -> ReceivePipe:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None


class SendPipe(_Pipe):
    """What a child reads: `stdin` of a `Process`."""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`, waiting for room if need be. A checkpoint.

        If it is cancelled, a part may have been written. `BrokenResourceError` if the child has
        closed its end; `ClosedResourceError` and `BusyResourceError` as for `ReceivePipe.receive`.
        """
        await checkpoint_if_cancelled()
        self._begin()
        self._busy = True
        try:
            with memoryview(data).cast("B") as left:
                sent = 0
                while sent < len(left):
                    if self._fd < 0:
                        raise ClosedResourceError("this pipe is closed")
                    try:
                        sent += os.write(self._fd, left[sent:])
                    except BlockingIOError:
                        await wait_writable(self._fd)
        except BrokenPipeError:
            raise BrokenResourceError("the child has closed its end of this pipe") from None
        finally:
            self._busy = False
        await cancel_shielded_checkpoint()


class Process:
    """A child process. Given by `open_process()`.

    As an async context manager, it closes the pipes at the end of the block and waits for the
    child, which is killed if the wait is cancelled.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        #: The pipes; `None` where it has something else.
        self.stdin = None if popen.stdin is None else SendPipe(popen.stdin)
        self.stdout = None if popen.stdout is None else ReceivePipe(popen.stdout)
        self.stderr = None if popen.stderr is None else ReceivePipe(popen.stderr)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    @property
    def args(self) -> Any:
        """What was run."""
        return self._popen.args

    @property
    def returncode(self) -> int | None:
        """How it has ended: a status, or minus the signal that killed it; `None` if it has not."""
        return self._popen.poll()

    async def wait(self) -> int:
        """Waits for its end, and returns how it has ended. A checkpoint. Any number may wait."""
        await checkpoint_if_cancelled()
        while (returncode := self.returncode) is None:
            await _wait_for_end(self._popen.pid)
        await cancel_shielded_checkpoint()
        return returncode

    def send_signal(self, number: signal.Signals | int) -> None:
        """Sends it a signal, unless it has ended."""
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._popen.kill()

    async def aclose(self) -> None:
        """Closes the pipes and waits for the child; kills it if that is cancelled."""
        with CancelScope(shield=True):
            for pipe in (self.stdin, self.stdout, self.stderr):
                if pipe is not None:
                    await pipe.aclose()
        try:
            await self.wait()
        except BaseException:
            self.kill()
            with CancelScope(shield=True):
                await self.wait()
            raise

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        returncode = self._popen.returncode
        state = "running" if returncode is None else f"ended with {returncode}"
        return f"<aevent.Process {self._popen.args!r}, {state}>"


async def _wait_for_end(pid: int) -> None:
    """Waits until the process has ended, and leaves its status for `Popen` to collect."""
    try:
        pidfd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # A kernel before 5.3, or a sandbox that does not know the call.
        options = os.WEXITED | os.WNOWAIT
        await to_thread.run_sync(os.waitid, os.P_PID, pid, options, abandon_on_cancel=True)
        return
    try:
        await wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def open_process(
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    *,
    stdin: Target = subprocess.PIPE,
    stdout: Target = subprocess.PIPE,
    stderr: Target = subprocess.PIPE,
    cwd: StrOrBytesPath | None = None,
    env: Mapping[str, str] | None = None,
    startupinfo: Any = None,
    creationflags: int = 0,
    start_new_session: bool = False,
    pass_fds: Sequence[int] = (),
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
) -> Process:
    """Starts a child process. A checkpoint.

    `command` is a string for the shell, or a sequence: the program and its arguments. The options
    are `subprocess.Popen`'s; what is a pipe is bytes. Raises what `Popen` raises. Use it as `async
    with await open_process(…) as process:`.
    """
    await checkpoint()
    popen = subprocess.Popen(
        command,
        shell=isinstance(command, (str, bytes)),
        bufsize=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=env,
        startupinfo=startupinfo,
        creationflags=creationflags,
        start_new_session=start_new_session,
        pass_fds=pass_fds,
        user=user,
        group=group,
        extra_groups=None if extra_groups is None else list(extra_groups),
        umask=umask,
    )
    return Process(popen)


async def run_process(
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    *,
    input: bytes | None = None,
    stdin: Target = None,
    stdout: Target = subprocess.PIPE,
    stderr: Target = subprocess.PIPE,
    check: bool = True,
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in a child process, to its end, and returns what it has written.

    `input` is written to its stdin, which is otherwise `stdin`, or empty. With `check`, an exit
    status other than 0 raises `subprocess.CalledProcessError`. `options` are those of
    `open_process`. If it is cancelled, the child is killed, and waited for.
    """
    if stdin is not None and input is not None:
        raise ValueError("only one of stdin and input can be given")
    if input is not None:
        stdin = subprocess.PIPE
    elif stdin is None:
        stdin = subprocess.DEVNULL
    outputs: dict[str, bytes | None] = {"stdout": None, "stderr": None}

    async def feed(pipe: SendPipe, data: bytes) -> None:
        async with pipe:
            try:
                await pipe.send(data)
            except BrokenResourceError:
                # A child need not read everything.
                pass

    async def collect(name: str, pipe: ReceivePipe) -> None:
        async with pipe:
            outputs[name] = b"".join([chunk async for chunk in pipe])

    process = await open_process(command, stdin=stdin, stdout=stdout, stderr=stderr, **options)
    try:
        async with TaskGroup() as group:
            if process.stdin is not None and input is not None:
                group.spawn(feed, process.stdin, input)
            if process.stdout is not None:
                group.spawn(collect, "stdout", process.stdout)
            if process.stderr is not None:
                group.spawn(collect, "stderr", process.stderr)
            returncode = await process.wait()
    except BaseException:
        process.kill()
        with CancelScope(shield=True):
            await process.aclose()
        raise
    output, errors = outputs["stdout"], outputs["stderr"]
    if check and returncode != 0:
        raise subprocess.CalledProcessError(returncode, command, output, errors)
    return subprocess.CompletedProcess(command, returncode, output, errors)
