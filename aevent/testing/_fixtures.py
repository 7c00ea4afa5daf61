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
    """A `MockClock` for the test: time stands still until it jumps."""
    yield from _clock(request, MockClock())


@pytest.fixture
def autojump_clock(request: pytest.FixtureRequest) -> Iterator[MockClock]:
    """A `MockClock` for the test: it jumps whenever all tasks wait."""
    yield from _clock(request, MockClock(autojump_threshold=0))


def _clock(request: pytest.FixtureRequest, clock: MockClock) -> Iterator[MockClock]:
    if _core.driver() is not None:
        with clock:
            yield clock
    elif request.node.get_closest_marker("trio") is not None:
        # pytest-trio has fixtures by these names.
        yield request.getfixturevalue(request.fixturename or "")
    else:
        pytest.fail(
            "a mock clock is for tests that run in a task: mark the test with @pytest.mark.aevent",
            pytrace=False,
        )
