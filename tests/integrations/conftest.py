"""The tests here run scripts in fresh interpreters, on each backend."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["native", "asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "trio":
        pytest.importorskip("trio")
    return name
