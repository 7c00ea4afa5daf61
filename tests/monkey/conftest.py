"""The tests here run on each backend. Those without arguments run in a task of a patched process.

That process is a fresh interpreter, one for each file and backend, which is patched before it
imports the file. pytest's own process need not be. Tests with arguments run in pytest's process and
start interpreters of their own.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A patched process that runs the tests of one file."""

    def __init__(self, path: Path, backend: str) -> None:
        self.errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), str(path), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
        )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def run(self, name: str) -> str | None:
        """What went wrong, if anything."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            wrong: str | None = json.loads(answer)
            return wrong
        status = self.process.wait()
        self.errors.seek(0)
        return f"the process of the test ended with status {status}\n{self.errors.read()}"

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


_workers: dict[tuple[Path, str], Worker] = {}


@pytest.fixture(autouse=True, params=("native", "asyncio", "trio"))
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "trio":
        pytest.importorskip("trio")
    return name


@pytest.fixture(scope="module", autouse=True)
def no_workers_left() -> Iterator[None]:
    yield
    for worker in _workers.values():
        worker.close()
    _workers.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    if inspect.signature(pyfuncitem.function).parameters:
        return None
    params: dict[str, Any] = pyfuncitem.callspec.params
    key = pyfuncitem.path, params["backend"]
    worker = _workers.get(key)
    if worker is not None and not worker.is_alive():
        worker.close()
        worker = None
    if worker is None:
        worker = _workers[key] = Worker(*key)
    wrong = worker.run(pyfuncitem.originalname)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)
    return True
