"""The tests here start processes that have timeouts of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def timeout() -> Iterator[None]:
    """In place of the one for tests that take a few milliseconds."""
    yield
