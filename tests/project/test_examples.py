"""The examples run, on each backend, and notice when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FETCH = EXAMPLES / "fetch.py"
DATABASE = EXAMPLES / "database.py"
BACKENDS = ["native", "asyncio", "trio"]

#: Not the limits of the demonstration, which are for a machine that has nothing else to do.
PATIENT = (
    *("--downloads=40", "--at-a-time=20", "--delay=0.3"),
    *("--longest-wall-time=15", "--longest-gap=5"),
)


def run_fetch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(FETCH), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_fetch_downloads_on_one_backend(backend: str) -> None:
    # A loop that stood still for each download would take twenty times the ideal.
    result = run_fetch("--backend", backend, *PATIENT, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_fetch_runs_all_backends_in_one_process_and_prints_a_table() -> None:
    result = run_fetch(*PATIENT)
    assert result.returncode == 0, result.stderr
    assert "40 downloads, 20 at a time, 300 ms each" in result.stdout
    rows = [line for line in result.stdout.splitlines() if " ms " in line and " s " in line]
    assert len(rows) == len(BACKENDS)
    for row, backend in zip(rows, BACKENDS, strict=True):
        assert backend in row


@pytest.mark.slow
def test_fetch_fails_when_the_downloads_take_too_long() -> None:
    # No client is within a factor of two of a server that does not sleep.
    result = run_fetch("--backend=native", "--downloads=20", "--at-a-time=10", "--delay=1e-6")
    assert result.returncode == 1
    assert "fetch.py: native: the downloads took" in result.stderr
    assert "more than 2 times the ideal" in result.stderr


def test_fetch_says_what_is_wrong_with_its_arguments() -> None:
    result = run_fetch("--at-a-time=0")
    assert result.returncode == 2
    assert "0 is not a positive number" in result.stderr


@pytest.mark.slow
def test_database_queries_while_the_loop_goes_on() -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-W", "error", str(DATABASE)),
            *("--queries=2", "--rows=300000", "--longest-gap=5"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == BACKENDS
