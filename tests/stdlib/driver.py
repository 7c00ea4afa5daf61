"""Runs one module of tests to its end, in as many processes as that takes.

A test that hangs or ends the interpreter costs itself only: the process and whatever it has started
are killed, and another process runs the tests that are left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from modules import Module

WORKER = Path(__file__).with_name("worker.py")

#: The name under which the end of the process is counted: it must be clean, and in time.
EXIT = "(exit of the interpreter)"
#: Tests of one module that are run again alone when they have failed.
RERUNS = 25
#: As many of these may have hung.
HUNG_RERUNS = 4
#: So many processes that die without a result, and the rest of the module is given up.
FRUITLESS = 3


#: Variables that the workers are given although their names begin with PYTHON or AEVENT_.
INHERITED: tuple[str, ...] = ()

#: The processes that are running at the moment, for `kill_all`.
_running: set[Process] = set()


def kill_all() -> None:
    """When the driver itself is ended: nothing that it has started is left."""
    for process in list(_running):
        process.kill()


class Outcome(NamedTuple):
    """What became of a test: "passed", "skipped", "failed", "hung", "crashed" or "not run"."""

    what: str
    detail: str = ""
    seconds: float = 0.0
    alone: bool = False
    """It failed among the others and was run again alone, with this outcome."""


class Results(NamedTuple):
    """What became of a module."""

    tests: dict[str, Outcome]
    skipped: str | None
    """Why the module cannot run here, if it says so."""
    seconds: float

    def dump(self) -> dict[str, Any]:
        return {
            "tests": {name: list(outcome) for name, outcome in self.tests.items()},
            "skipped": self.skipped,
            "seconds": self.seconds,
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Results:
        tests = {name: Outcome(*outcome) for name, outcome in data["tests"].items()}
        return cls(tests, data["skipped"], data["seconds"])


class Run:
    """One module on one backend, or plainly."""

    def __init__(
        self,
        module: Module,
        backend: str,
        *,
        timeout: float,
        folder: Path,
        usual: dict[str, float] | None = None,
        without: Iterable[str] = (),
    ) -> None:
        self.module = module
        self.backend = backend
        self.timeout = timeout
        #: Seconds that tests take plainly: the long ones are given longer.
        self.usual = usual or {}
        #: Tests of no interest.
        self.without = frozenset(without)
        self.folder = folder
        self.log = folder / f"{module.name}.log"
        self.tests: dict[str, Outcome] = {}
        self.planned: list[str] = []
        self.skipped: str | None = None
        self.trouble: list[str] = []

    def limit(self, test: str | None) -> float:
        """Seconds after which a test hangs; also for what is no test, such as the import."""
        return self.timeout + 5 * self.usual.get(test or "", 0.0)

    def __call__(self, only: list[str] | None = None, *, rerun: bool = True) -> Results:
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self._run_all(only)
        if rerun:
            self._run_failed_alone()
        return Results(self.tests, self.skipped, round(time.monotonic() - began, 1))

    def _run_all(self, only: list[str] | None) -> None:
        done = set(self.without)
        fruitless = 0
        while True:
            process = self._process(only, done)
            for name in process.planned:
                if name not in self.planned:
                    self.planned.append(name)
            self.skipped = self.skipped or process.skipped
            self.trouble += process.trouble
            self.tests.update(process.tests)
            done |= process.tests.keys()
            if process.over or self.skipped is not None:
                self.tests[EXIT] = process.exit
                if process.has_failures:
                    self.tests[EXIT] = Outcome("passed", "not judged: tests have failed")
                break
            fruitless = 0 if process.tests else fruitless + 1
            if fruitless == FRUITLESS or (process.planned and done.issuperset(process.planned)):
                self.tests[EXIT] = process.exit
                break
        # Of a class whose fixture failed, or of a module that cannot even be imported.
        detail = "\n".join(self.trouble)
        for name in self.planned:
            self.tests.setdefault(name, Outcome("not run", detail))
        if self.trouble and not self.planned:
            self.tests[EXIT] = Outcome("failed", detail)
            if self.backend == "plain":
                self.skipped = "fails in plain Python: " + detail.strip().rpartition("\n")[2]

    def _run_failed_alone(self) -> None:
        bad = [
            name
            for name, outcome in self.tests.items()
            if name != EXIT and outcome.what not in ("passed", "skipped")
        ]
        if len(bad) > RERUNS:
            return
        hung = [name for name in bad if self.tests[name].what == "hung"]
        for name in bad:
            if name in hung[HUNG_RERUNS:]:
                continue
            again = self._process([name], set(), alone=True).tests.get(name)
            if again is not None:
                detail = again.detail or self.tests[name].detail
                self.tests[name] = again._replace(alone=True, detail=detail)

    def _process(
        self, only: list[str] | None, without: set[str], *, alone: bool = False
    ) -> Process:
        with Process(self, only, without, alone=alone) as process:
            process.watch()
        return process


class Process:
    """One process that runs tests, and what it has told."""

    def __init__(
        self, run: Run, only: list[str] | None, without: set[str], *, alone: bool = False
    ) -> None:
        self.run = run
        #: For the sake of one test, whose outcome is all that is asked for.
        self.alone = alone
        self.planned: list[str] = []
        self.tests: dict[str, Outcome] = {}
        self.skipped: str | None = None
        self.trouble: list[str] = []
        self.over = False
        self.exit = Outcome("passed")
        self.current: str | None = None
        self._unread = b""
        # Short, as the paths of sockets have to be.
        self.home = Path(tempfile.mkdtemp(prefix="aev"))
        self.results = self.home / "results"
        self.results.touch()
        (self.home / "cwd").mkdir()
        self.mark = uuid.uuid4().hex
        job = {
            "module": run.module.name,
            "resources": run.module.resources,
            "results": str(self.results),
            "only": only,
            "without": sorted(without),
            "limits": {name: 0.9 * run.limit(name) for name, s in run.usual.items() if s > 1},
            "limit": 0.9 * run.timeout,
        }
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in INHERITED or not name.startswith(("PYTHON", "AEVENT_"))
        }
        environment["AEVENT_CONFORMANCE_BACKEND"] = run.backend
        environment["AEVENT_CONFORMANCE_JOB"] = json.dumps(job)
        environment["AEVENT_CONFORMANCE_MARK"] = self.mark
        environment["TMPDIR"] = str(self.home)
        if run.module.path is not None:
            environment["PYTHONPATH"] = run.module.path
        self._log = run.log.open("ab")
        self.log_start = run.log.stat().st_size
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            cwd=self.home / "cwd",
            env=environment,
            stdin=subprocess.DEVNULL,
            # A file: a pipe would be held open by children that a test leaves behind.
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        _running.add(self)
        return self

    def __exit__(self, *details: object) -> None:
        self.kill()
        _running.discard(self)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def watch(self) -> None:
        """Follows what the process tells, until it ends or is too long silent."""
        heard = time.monotonic()
        while True:
            ended = self.process.poll() is not None
            if self._read():
                heard = time.monotonic()
            if ended:
                self._conclude("crashed", f"the process ended with {self.process.returncode}")
                return
            if self._nothing_left_to_learn:
                self.kill()
                return
            if time.monotonic() > heard + (limit := self.run.limit(self.current)):
                self.kill()
                self._conclude("hung", f"nothing happened for {limit:g} s")
                return
            time.sleep(0.02)

    @property
    def has_failures(self) -> bool:
        """A test that stops half-way leaves threads behind that nobody will end.

        So the end of this process, which waits for them, says nothing and is not waited for.
        """
        return any(outcome.what == "failed" for outcome in self.tests.values())

    @property
    def _nothing_left_to_learn(self) -> bool:
        return bool(self.tests) if self.alone else self.over and self.has_failures

    def _read(self) -> bool:
        with self.results.open("rb") as results:
            results.seek(getattr(self, "_position", 0))
            new = results.read()
            self._position = results.tell()
        *lines, self._unread = (self._unread + new).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return bool(new)

    def _take(self, line: dict[str, Any]) -> None:
        if "plan" in line:
            self.planned += line["plan"]
        elif "start" in line:
            self.current = line["start"]
        elif "end" in line:
            self.current = None
            self.tests[line["end"]] = Outcome(line["outcome"], line["detail"], line["seconds"])
        elif "trouble" in line:
            self.trouble.append(line["trouble"])
        elif "skipped" in line:
            self.skipped = line["skipped"]
        elif "over" in line:
            self.over = True

    def _conclude(self, what: str, how: str) -> None:
        if self.over and what == "crashed" and self.process.returncode == 0:
            return
        detail = f"{how}\n{self._tail()}"
        if self.current is not None:
            self.tests[self.current] = Outcome(what, detail)
        self.exit = Outcome(what, detail)

    def _tail(self) -> str:
        with self.run.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, size - 6000))
            return log.read().decode(errors="backslashreplace")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # And what has left the group, or was left behind by it.
        for pid in _marked(f"AEVENT_CONFORMANCE_MARK={self.mark}".encode()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _marked(mark: bytes) -> Iterator[int]:
    """The processes with this in their environment."""
    for entry in Path("/proc").iterdir() if Path("/proc/self/environ").exists() else ():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                yield int(entry.name)
