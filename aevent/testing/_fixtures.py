"""The fixtures that tests may ask for by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .. import _core
from ._mock_clock import MockClock


@pytest.fixture(scope="session")
def aevent_backend(request: pytest.FixtureRequest) -> str | None:
    """The backend that the test runs on, `None` if in no task."""
    plugin: Any = request.config.pluginmanager.get_plugin("aevent-active")
    backend: str | None = getattr(request, "param", plugin.backend)
    return backend


@pytest.fixture
def mock_clock(request: pytest.FixtureRequest) -> Iterator[MockClock]:
    """A `MockClock` for the test, on the native backend: time stands still until it jumps."""
    with _installed(MockClock()) as clock:
        yield clock


@pytest.fixture
def autojump_clock(request: pytest.FixtureRequest) -> Iterator[MockClock]:
    """A `MockClock` for the test, on the native backend: it jumps whenever all tasks wait."""
    with _installed(MockClock(autojump_threshold=0)) as clock:
        yield clock


def _installed(clock: MockClock) -> MockClock:
    if _core.driver() is None:
        pytest.fail(
            "a mock clock is for tests that run in a task: mark the test with "
            "@pytest.mark.aevent(backend='native')",
            pytrace=False,
        )
    return clock
