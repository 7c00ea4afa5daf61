"""A small cancellation storm, on each backend. `make storm` makes a large one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("storm.py")


@pytest.mark.slow
def test_tasks_in_every_kind_of_wait_are_cancelled_and_leave_nothing(backend: str) -> None:
    size = ["--backend", backend, "--tasks", "300", "--rounds", "3", "--timeout", "60"]
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *size], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all were cancelled, and nothing was left" in done.stdout
