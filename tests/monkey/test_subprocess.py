"""`subprocess`: children, their pipes and their ends."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat

CAT = ["cat"]


def test_pipes_wait_while_others_run() -> None:
    with (
        heartbeat() as heart,
        subprocess.Popen(CAT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        assert type(stdin) is io.BufferedWriter
        assert type(stdout) is io.BufferedReader

        def say(data: bytes) -> None:
            stdin.write(data)
            stdin.flush()

        heart.after_ticks(lambda: say(b"one\ntwo\nthree"))
        assert stdout.readline() == b"one\n"
        assert stdout.read1() == b"two\nthree"
        heart.after_ticks(lambda: say(b"four\nfive\n"))
        assert next(stdout) == b"four\n"
        assert stdout.read(5) == b"five\n"
        heart.after_ticks(lambda: say(b"x"))
        assert select.select([stdout], [], []) == ([stdout], [], [])
        heart.after_ticks(stdin.close)
        assert stdout.read() == b"x"
        assert process.wait() == 0


def test_text_and_other_buffer_sizes() -> None:
    with heartbeat() as heart:
        for bufsize in (0, 1, -1, 10):
            for text in (False, True):
                if bufsize == 1 and not text:
                    continue
                with subprocess.Popen(
                    CAT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=bufsize, text=text
                ) as process:
                    stdin, stdout = process.stdin, process.stdout
                    assert stdin is not None and stdout is not None

                    def say(stdin=stdin, text=text) -> None:  # type: ignore[no-untyped-def]
                        stdin.write("line\n" if text else b"line\n")
                        stdin.flush()
                        stdin.close()

                    heart.after_ticks(say)
                    assert stdout.readline() == ("line\n" if text else b"line\n")
                    assert not stdout.read()


def test_more_than_fits_into_the_pipes_goes_both_ways() -> None:
    data = os.urandom(1_000_000)
    assert subprocess.run(CAT, input=data, capture_output=True, check=True).stdout == data
    with subprocess.Popen(CAT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def feed() -> None:
            stdin.write(data)
            stdin.close()

        thread = threading.Thread(target=feed)
        thread.start()
        assert stdout.read() == data
        thread.join()
    # Writing only, to a child that reads late.
    with (
        heartbeat() as heart,
        subprocess.Popen(
            ["sh", "-c", "read x; wc -c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        stopped = process
        stopped.send_signal(signal.SIGSTOP)
        heart.after_ticks(lambda: stopped.send_signal(signal.SIGCONT))
        process.stdin.write(b"\n" + data)
        process.stdin.close()
        assert int(process.stdout.read()) == len(data)


def test_the_end_is_waited_for() -> None:
    with heartbeat() as heart:
        for timeout in (None, 30):
            with subprocess.Popen(["sh", "-c", "read x; exit 3"], stdin=subprocess.PIPE) as process:
                assert process.stdin is not None
                assert process.poll() is None
                heart.after_ticks(process.stdin.close)
                assert process.wait(timeout) == 3
                assert process.poll() == 3


def test_waiting_times_out() -> None:
    with heartbeat(), subprocess.Popen(["sleep", "3600"], stdout=subprocess.PIPE) as process:
        for timeout in (0.003, 0, -1):
            with pytest.raises(subprocess.TimeoutExpired) as error:
                process.wait(timeout)
            assert error.value.timeout == timeout
            assert error.value.cmd == ["sleep", "3600"]
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.003)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL


def test_an_end_is_told_at_once() -> None:
    # Not in steps of 50 ms, as the original does it: between 63 and 113 ms it does not look.
    took: list[float] = []
    while not took or (min(took) >= 0.04 and len(took) < 50):
        with subprocess.Popen(CAT, stdin=subprocess.PIPE) as process:
            start = time.monotonic()
            threading.Timer(0.066, process.kill).start()
            process.wait(30)
            took.append(time.monotonic() - start - 0.066)
    # The machine may have been busy, but not each time.
    assert min(took) < 0.04, took


def test_several_threads_wait_for_one_child() -> None:
    with heartbeat() as heart, subprocess.Popen(CAT, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        codes: list[int] = []
        threads = [
            threading.Thread(target=lambda timeout=timeout: codes.append(process.wait(timeout)))
            for timeout in (None, 30, None, 30)
        ]
        for thread in threads:
            thread.start()
        heart.after_ticks(process.stdin.close)
        for thread in threads:
            thread.join()
        assert codes == [0, 0, 0, 0]


def test_the_shorthands() -> None:
    assert subprocess.getoutput("echo hello") == "hello"
    assert subprocess.getstatusoutput("exit 3") == (3, "")
    assert subprocess.check_output(["echo", "hello"], text=True) == "hello\n"
    assert subprocess.call(["true"]) == 0
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.check_call(["false"])
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/no/such/program"])
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "3600"], timeout=0.002)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "3600"], capture_output=True, timeout=0.002)


def test_many_children_side_by_side() -> None:
    outputs: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: outputs.append(subprocess.check_output(["echo", str(n)], text=True))
        )
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(output) for output in outputs) == list(range(20))


def test_a_run_that_is_cancelled_kills_its_child_and_collects_it() -> None:
    for output in (subprocess.PIPE, None):
        with aevent.move_on_after(0.02) as scope:
            subprocess.run(["sleep", "3600"], stdout=output)
        assert scope.cancelled_caught
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_leaving_a_child_alone_when_cancelled() -> None:
    process = subprocess.Popen(["sleep", "3600"])
    with aevent.move_on_after(0.01) as scope, process:
        process.wait()
    assert scope.cancelled_caught
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_the_child_gets_no_non_blocking_files() -> None:
    code = "import os; print([os.get_blocking(fd) for fd in (0, 1, 2)])"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "[True, True, True]\n"


def test_a_command_line_tool_in_the_obvious_way() -> None:
    with (
        heartbeat() as heart,
        subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as shell,
    ):
        stdin, stdout = shell.stdin, shell.stdout
        assert stdin is not None and stdout is not None
        for n in range(5):
            heart.after_ticks(lambda n=n: print(f"echo {n}", file=stdin))  # type: ignore[misc]
            assert stdout.readline() == f"{n}\n"
        out, _ = shell.communicate("echo the end\n")
        assert out == "the end\n"
