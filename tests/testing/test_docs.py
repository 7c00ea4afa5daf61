"""The examples of docs/testing.md are tests that pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python run\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", BLOCKS, ids=range(len(BLOCKS)))
def test_example(source: str, run_pytest: Callable[..., pytest.RunResult]) -> None:
    result = run_pytest(source, "--aevent-backend=native")
    assert result.ret == 0
