"""Run workloads in processes of their own, servers under load among them, and leave none behind."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from c_programs import compile_preload, compile_program

RUNTIMES_SCRIPT = Path(__file__).parent / "runtimes.py"
MAX_SECONDS = 30
"""No process may take longer; those of the suite are meant to take less than 5 s."""


class BenchmarkFailed(Exception):
    """A process failed or took too long; the message says how it ended."""


@dataclass(frozen=True)
class Load:
    """What `c/load.c` does to a server; see there."""

    connections: int
    http: str | None = None
    seconds: float = 0.6
    warmup: float = 0.25
    requests: int | None = None

    def options(self) -> list[str]:
        options = [f"connections={self.connections}"]
        options += [f"warmup={self.warmup}", f"seconds={self.seconds}"]
        if self.http is not None:
            options.append(f"http={self.http}")
        if self.requests is not None:
            options.append(f"requests={self.requests}")
        return options


@dataclass(frozen=True)
class Server:
    pid: int
    port: int


class Launcher:
    """Starts processes; compiles, when first asked for, the C programs into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @cached_property
    def _load_program(self) -> Path:
        return compile_program("load", self._directory)

    @cached_property
    def _c_server(self) -> Path:
        return compile_program("epoll_echo", self._directory)

    @cached_property
    def _slow_resolver(self) -> Path:
        return compile_preload("slow_resolver", self._directory)

    def measure(
        self,
        runtime: str,
        workload: str,
        parameters: Mapping[str, object],
        *,
        slow_resolver: bool = False,
    ) -> dict[str, float]:
        """Run a workload that measures itself; return its figures per operation."""
        preload = self._slow_resolver if slow_resolver else None
        command = python_command(runtime, workload, parameters)
        return _run(command, environment(preload))

    def measure_server(
        self, runtime: str, workload: str, parameters: Mapping[str, object], load: Load
    ) -> dict[str, float]:
        """Run a server under load; return what a request cost the server, and the latencies."""
        with self.server(runtime, workload, parameters) as server:
            answer = self.apply(load, server)
        requests = answer["requests"]
        if requests == 0:
            raise BenchmarkFailed("the server answered no request while it was measured")
        return {
            "wall": answer["wall_ns"] / requests,
            "cpu": answer["server_cpu_ns"] / requests,
            "p50": answer["p50_us"] * 1e3,
            "p99": answer["p99_us"] * 1e3,
        }

    def apply(self, load: Load, server: Server) -> dict[str, float]:
        """Put a server under load; return what the load generator prints."""
        command = [str(self._load_program), f"port={server.port}", f"pid={server.pid}"]
        return _run([*command, *load.options()], environment())

    @contextmanager
    def server(
        self, runtime: str, workload: str, parameters: Mapping[str, object]
    ) -> Iterator[Server]:
        """A server in a process of its own, for as long as the block lasts."""
        if runtime == "c":
            command = [str(self._c_server)]
        else:
            command = python_command(runtime, workload, parameters)
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment()
            )
            try:
                assert process.stdout is not None
                yield Server(process.pid, _read_port(process.stdout))
            except BenchmarkFailed as failure:
                process.kill()
                process.wait()
                errors.seek(0)
                raise BenchmarkFailed(f"{failure}; server: {_last_line(errors.read())}") from None
            finally:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def python_command(runtime: str, workload: str, parameters: Mapping[str, object]) -> list[str]:
    script = str(RUNTIMES_SCRIPT)
    return [sys.executable, script, runtime, workload, json.dumps(dict(parameters))]


def environment(preload: Path | None = None) -> dict[str, str]:
    """Ours, without what would change a runtime's defaults."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AEVENT_", "GEVENT_"))
    }
    if preload is not None:
        kept["LD_PRELOAD"] = str(preload)
    return kept


def _run(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Run a process that prints a line of JSON; kill it if we are interrupted or it is late."""
    try:
        done = subprocess.run(command, capture_output=True, env=env, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"took longer than {MAX_SECONDS} s") from None
    if done.returncode != 0:
        raise BenchmarkFailed(f"status {done.returncode}: {_last_line(done.stderr)}")
    return _parse(done.stdout)


def _read_port(stream: IO[bytes]) -> int:
    ready, _, _ = select.select([stream], [], [], MAX_SECONDS)
    line = stream.readline() if ready else b""
    if not line:
        raise BenchmarkFailed("the server did not print its port")
    return int(_parse(line)["port"])


def _parse(output: bytes) -> dict[str, Any]:
    # The figures are in the last line: a runtime may have printed something before it.
    lines = output.decode(errors="replace").splitlines() or [""]
    try:
        figures = json.loads(lines[-1])
    except ValueError:
        raise BenchmarkFailed(f"printed no figures but {lines[-1]!r}") from None
    if not isinstance(figures, dict):
        raise BenchmarkFailed(f"printed no figures but {lines[-1]!r}")
    return figures


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(no message)"
