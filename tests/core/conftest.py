"""The tests here run in a patched process; pytest itself runs outside tasks, unaffected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import aevent

aevent.setup("native")


def in_task(function: Callable[[], Any]) -> Any:
    return aevent.run(function)


def outside(function: Callable[[], Any]) -> Any:
    return function()


@pytest.fixture(params=[in_task, outside])
def anywhere(request: pytest.FixtureRequest) -> Any:
    """Runs a function in a task, and in an OS thread that is in none."""
    return request.param
