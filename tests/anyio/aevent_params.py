"""A pytest plugin for anyio's own suite: its tests run on the backends `trio` and `aevent`.

The suite's files stay as they are. Its fixture `anyio_backend` is given another parameter before it
is used for the first time, and what is for asyncio only is left out.
"""

from __future__ import annotations

from typing import Any

import pytest

import aevent  # noqa: F401 - registers the backend


def backend_of(param: Any) -> str:
    """The name of the backend that a parameter of the fixture stands for."""
    value = getattr(param, "values", (param,))[0]
    name: str = value[0] if isinstance(value, tuple) else value
    return name


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Any:
    """Adds ours to the parameters of the suite's fixture, next to trio's."""
    for fixture in metafunc._arg2fixturedefs.get("anyio_backend", ()):
        params = fixture.params or ()
        names = {backend_of(param) for param in params}
        if "trio" in names and "aevent" not in names:
            object.__setattr__(fixture, "params", (*params, pytest.param("aevent", id="aevent")))
    yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what runs on asyncio."""
    left_out = [item for item in items if _runs_on_asyncio(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _runs_on_asyncio(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    return "anyio_backend" in params and backend_of(params["anyio_backend"]) == "asyncio"
