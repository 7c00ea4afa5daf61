"""A pytest plugin for anyio's own suite: its tests run on the backend `aevent`, too.

The suite's `anyio_backend` fixture is left as it is; a parameter is added to it when it is read.
"""

from __future__ import annotations

from typing import Any

import pytest

import aevent  # noqa: F401 - registers the backend


@pytest.hookimpl(hookwrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Any:
    """Adds ours to the parameters of the suite's own fixture, before they are used."""
    for fixture in metafunc._arg2fixturedefs.get("anyio_backend", ()):
        params = fixture.params or ()
        names = [getattr(param, "values", (param,))[0] for param in params]
        if "trio" in names and "aevent" not in names:
            object.__setattr__(fixture, "params", (*params, pytest.param("aevent", id="aevent")))
    yield
