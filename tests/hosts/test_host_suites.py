"""A part of the hosts' own suites in a patched process: `make host-suites` runs the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("suite", ["asyncio", "trio"])
def test_what_passes_plainly_passes_patched(suite: str) -> None:
    pytest.importorskip("test.test_asyncio" if suite == "asyncio" else "trio._tests")
    done = subprocess.run(
        [sys.executable, str(RUN), "--fast", "--backend=native", suite],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
