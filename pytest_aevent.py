"""The pytest plugin's entry point: whether a run has to do with aevent at all.

Where it has not, this is all that is imported and all that happens; that is why it is no part of
the package, whose import costs something. What the plugin does is in `aevent/testing/_plugin.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = ("auto", "strict")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aevent", "aevent: tests in tasks of trio, asyncio or its own loop")
    group.addoption(
        "--aevent-backend",
        metavar="NAMES",
        help="run tests in a task of this backend: native, asyncio or trio, or several, separated "
        "by commas. Default: ini aevent_backend, AEVENT_BACKEND.",
    )
    group.addoption(
        "--aevent-timeout",
        metavar="SECONDS",
        help="seconds for each test, and for each setting up and tearing down. Default: ini "
        "aevent_timeout.",
    )
    parser.addini("aevent_backend", "like --aevent-backend", default="")
    parser.addini("aevent_timeout", "like --aevent-timeout", default="")
    parser.addini(
        "aevent_mode",
        "auto: every async test runs in a task and, if a backend is asked for, every synchronous "
        "one too; strict: only those that are marked. Default: auto if a backend is asked for.",
        default="",
    )
    parser.addini("aevent_exclude", "what not to patch: see aevent.setup()", type="args")


def _asked_for(config: pytest.Config) -> tuple[str, str]:
    """Names of backends, and who asked."""
    option: str | None = config.known_args_namespace.aevent_backend
    for names, where in (
        (option, "--aevent-backend"),
        (config.getini("aevent_backend"), "aevent_backend"),
        (os.environ.get("AEVENT_BACKEND"), "AEVENT_BACKEND"),
    ):
        if names:
            return names, where
    return "", ""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: Sequence[str]
) -> None:
    """As early as can be: what is imported from now on finds everything patched."""
    mode = early_config.getini("aevent_mode")
    if mode and mode not in _MODES:
        raise pytest.UsageError(f"aevent_mode is {mode!r}: choose auto or strict")
    names, where = _asked_for(early_config)
    if names or mode == "auto":
        _activate(early_config, names, where)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "aevent(backend=..., timeout=...): run the test in a task of this backend of aevent, or of "
        "each in a list; with backend=None, in no task. timeout: in seconds.",
    )
    plugin = config.stash.get(_plugin, None)
    if plugin is not None:
        plugin.register_fixtures()


def _is_marked(collector: Any, thing: object) -> bool:
    marks = getattr(thing, "pytestmark", ())
    marks = marks if isinstance(marks, (list, tuple)) else (marks,)
    return any(getattr(mark, "name", None) == "aevent" for mark in marks)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    """Somebody uses the marker: then it has to do with aevent."""
    config: pytest.Config = collector.config
    if _plugin in config.stash:
        return
    if _is_marked(collector, obj) or collector.get_closest_marker("aevent") is not None:
        _activate(config, "", "").register_fixtures()


_plugin = pytest.StashKey[Any]()


def _activate(config: pytest.Config, names: str, where: str) -> Any:
    if pytest.version_tuple < (8,):
        raise pytest.UsageError(
            f"aevent's plugin needs pytest 8 or later, not {pytest.__version__}"
        )
    # Here and not at the top: see there.
    from aevent.testing._plugin import Plugin

    plugin = config.stash[_plugin] = Plugin(config, names, where)
    config.pluginmanager.register(plugin, "aevent-active")
    return plugin
