"""Child processes in async code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import aevent
from tests.backends.contract import Run, Settle

CAT = ["cat"]
SLEEP = ["sleep", "1000"]


def test_run_process_feeds_collects_and_reports(run: Run) -> None:
    async def main() -> None:
        data = os.urandom(300_000)  # more than the pipes hold
        result = await aevent.run_process(CAT, input=data)
        assert (result.returncode, result.stdout, result.stderr) == (0, data, b"")
        result = await aevent.run_process("echo out; echo err >&2; exit 3", check=False)
        assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            await aevent.run_process("echo out; exit 3")
        assert (caught.value.returncode, caught.value.output) == (3, b"out\n")
        # stdin is empty unless told otherwise, and a child need not read it.
        assert (await aevent.run_process(CAT)).stdout == b""
        assert (await aevent.run_process(["true"], input=data)).returncode == 0
        result = await aevent.run_process(["echo"], stdout=subprocess.DEVNULL, stderr=None)
        assert (result.stdout, result.stderr) == (None, None)
        with pytest.raises(ValueError, match="only one of stdin and input"):
            await aevent.run_process(CAT, input=b"", stdin=subprocess.DEVNULL)
        with pytest.raises(FileNotFoundError):
            await aevent.run_process(["/nonexistent"])

    run(main)


def test_several_children_run_side_by_side(run: Run) -> None:
    async def main() -> None:
        first, second = os.pipe(), os.pipe()
        # Each waits for the other.
        program = "import os, sys; a, b = map(int, sys.argv[1:]); os.write(a, b'x'); os.read(b, 1)"
        async with aevent.TaskGroup() as tg:
            for out, into in ((first[1], second[0]), (second[1], first[0])):
                command = [sys.executable, "-S", "-c", program, str(out), str(into)]
                tg.spawn(_run_with_fds, command, (out, into))
        for fd in (*first, *second):
            os.close(fd)

    run(main)


async def _run_with_fds(command: list[str], fds: tuple[int, ...]) -> None:
    await aevent.run_process(command, pass_fds=fds)


def test_a_cancelled_run_process_kills_its_child(run: Run, settle: Settle) -> None:
    async def main() -> None:
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(aevent.run_process, SLEEP)
                await settle()
                scope.cancel()
        # There is no child left to collect.
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    run(main)


def test_a_conversation_with_a_child(run: Run) -> None:
    async def main() -> None:
        async with await aevent.open_process(CAT) as process:
            assert process.stdin is not None and process.stdout is not None
            for line in (b"one\n", b"two\n"):
                await process.stdin.send(line)
                assert await process.stdout.receive() == line
            assert process.returncode is None
            await process.stdin.send(b"rest")
            await process.stdin.aclose()
            assert [chunk async for chunk in process.stdout] == [b"rest"]
            with pytest.raises(aevent.EndOfStream):
                await process.stdout.receive()
            assert await process.wait() == 0
        assert process.returncode == 0
        with pytest.raises(aevent.ClosedResourceError):
            await process.stdout.receive()

    run(main)


def test_leaving_the_block_waits_and_a_cancellation_there_kills(run: Run) -> None:
    async def main() -> None:
        with aevent.CancelScope() as scope:
            async with await aevent.open_process(SLEEP, stdin=None, stdout=None) as process:
                scope.cancel()
        assert scope.cancelled_caught
        assert process.returncode == -signal.SIGKILL

    run(main)


def test_signals_reach_the_child_and_everybody_who_waits_hears(run: Run, settle: Settle) -> None:
    async def main() -> None:
        ended: list[int] = []
        async with await aevent.open_process(SLEEP) as process:

            async def wait() -> None:
                ended.append(await process.wait())

            async with aevent.TaskGroup() as tg:
                for _ in range(3):
                    tg.spawn(wait)
                await settle()
                process.terminate()
        assert ended == [-signal.SIGTERM] * 3
        process.kill()  # it is gone, and nobody else is meant

    run(main)


def test_closing_a_pipe_ends_the_wait_for_it(run: Run, settle: Settle) -> None:
    async def main() -> None:
        async with await aevent.open_process(CAT) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None and stdout is not None

            async def receive() -> None:
                with pytest.raises(aevent.ClosedResourceError):
                    await stdout.receive()

            async with aevent.TaskGroup() as tg:
                tg.spawn(receive)
                await settle()
                with pytest.raises(aevent.BusyResourceError):
                    await stdout.receive()
                stdout.close()
            with pytest.raises(aevent.BrokenResourceError):
                while True:
                    await stdin.send(b"x" * 100_000)

    run(main)
