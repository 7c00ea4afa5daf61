"""Count the system calls that an echo server makes for a request: `python benches/syscalls.py`.

One receive and one send a request is the floor; what comes on top of them is the runtime's doing.
perf counts at next to no cost, but needs the rights to do so; strace will do instead, but slows the
server down several times over, and a slow server always finds the next request waiting: its waits
and its failing receives then seem rarer than they are. Either way there is no time in this table.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c_programs import CompilationFailed
from processes import BenchmarkFailed, Launcher, Load
from run import ALL_RUNTIMES, available

SHOWN = 0.005
"""Calls rarer than this a request are left out: they belong to the start of a connection."""


EVENTS = (
    "raw_syscalls:sys_enter",
    *(
        f"syscalls:sys_enter_{name}"
        for name in (
            *("recvfrom", "recvmsg", "read", "readv", "sendto", "sendmsg", "write", "writev"),
            *("epoll_wait", "epoll_pwait", "epoll_ctl", "poll", "timerfd_settime", "futex"),
            *("getsockopt", "fcntl", "ioctl", "getpid", "sched_yield"),
        )
    ),
)
"""What perf counts: all system calls together, and each of those that an echo server may make.
It can count each of the four hundred there are, but takes many seconds to stop doing so."""


@dataclass(frozen=True)
class Tracer:
    """A program that attaches to a process, counts, and prints a table to stderr at SIGINT."""

    command: tuple[str, ...]
    row: re.Pattern[str]
    """A row of its table, with the groups `calls` and `name`; the total's name is empty."""

    @property
    def name(self) -> str:
        return self.command[0]


TRACERS = (
    Tracer(
        ("perf", "stat", "-x", ",", "-e", ",".join(EVENTS), "-p"),
        re.compile(r"^(?P<calls>\d+),[^,]*,(raw_)?syscalls:sys_enter_?(?P<name>\w*),"),
    ),
    # % time, seconds, usecs/call, calls, errors if any, syscall
    Tracer(
        ("strace", "-f", "-c", "-p"),
        re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(?P<calls>\d+)\s+(\d+\s+)?(total|(?P<name>\w+))$"),
    ),
)

ATTACHING_SECONDS = 1.0
"""How long a tracer gets to attach; neither says in a way common to both when it has."""


def usable_tracer() -> Tracer | None:
    """The first tracer that is installed and allowed to count what another process does."""
    for tracer in TRACERS:
        if shutil.which(tracer.name) is None:
            continue
        with subprocess.Popen(["sleep", "30"]) as traced:
            try:
                if trace(tracer, traced.pid, lambda: None) is not None:
                    return tracer
            finally:
                traced.kill()
    return None


def trace(tracer: Tracer, pid: int, work: Callable[[], None]) -> dict[str, int] | None:
    """Count the calls of a process while `work` runs; None if the tracer cannot do it."""
    process = subprocess.Popen(
        [*tracer.command, str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        time.sleep(ATTACHING_SECONDS)
        if process.poll() is not None:
            return None
        work()
        process.send_signal(signal.SIGINT)
        try:
            _, table = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            return None
    finally:
        process.kill()
        process.communicate()
    rows = [tracer.row.match(line) for line in table.splitlines()]
    return {row["name"] or "": int(row["calls"]) for row in rows if row is not None}


def calls_per_request(
    launcher: Launcher, tracer: Tracer, runtime: str, *, connections: int, requests: int
) -> dict[str, float]:
    """How often each system call was made for one request.

    The start of the connections is counted too, and is lost among the requests.
    """
    load = Load(connections, warmup=0, seconds=15, requests=requests)
    answered = 0.0

    def work() -> None:
        nonlocal answered
        answered = launcher.apply(load, server)["all_requests"]

    with launcher.server(runtime, "echo_server", {"seconds": 0}) as server:
        calls = trace(tracer, server.pid, work)
    if calls is None:
        raise BenchmarkFailed(f"{tracer.name} could not attach")
    return {name: count / answered for name, count in calls.items()}


def print_table(runtime: str, calls: dict[str, float]) -> None:
    print(f"{runtime}: {calls.pop(''):.2f} system calls a request")
    for name, count in sorted(calls.items(), key=lambda item: -item[1]):
        if count >= SHOWN:
            print(f"  {name:16}{count:8.3f}")
    print()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count an echo server's system calls a request.")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--runtimes", metavar="NAME,…", default=",".join(ALL_RUNTIMES))
    options = parser.parse_args(arguments)
    tracer = usable_tracer()
    if tracer is None:
        print("This needs perf or strace, and the right to trace another process.")
        return 1
    print(f"counted with {tracer.name}, connections: {options.connections}\n")
    failed = False
    with tempfile.TemporaryDirectory(prefix="aevent-benches-") as directory:
        launcher = Launcher(Path(directory))
        for runtime in available(options.runtimes.split(",")):
            try:
                calls = calls_per_request(
                    launcher,
                    tracer,
                    runtime,
                    connections=options.connections,
                    requests=options.requests,
                )
            except (BenchmarkFailed, CompilationFailed) as failure:
                print(f"{runtime} failed: {failure}\n")
                failed = True
            else:
                print_table(runtime, calls)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
