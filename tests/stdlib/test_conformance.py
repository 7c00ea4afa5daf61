"""Some of CPython's own tests, patched: those of the modules that all others build on.

`make conformance` runs them all, on every backend.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")

#: A few seconds each.
QUICK = (
    "test_threading_local",
    "test_thread",
    "test_fork1",
    "test_queue",
    "test_sched",
    "test_select",
    "test_socketserver",
    "test_contextlib",
    "test_context",
)


@pytest.mark.slow
@pytest.mark.parametrize("module", QUICK)
def test_passes_patched_what_passes_plainly(module: str) -> None:
    command = [sys.executable, str(RUN), module, "--backend=native", "--jobs=1", "--verbose"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    if "skipped:" in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
