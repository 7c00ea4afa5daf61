"""`sys`: what is kept for each thread is the green thread's that has set it.

That is trace and profile functions, and the hooks for async generators.
"""

from __future__ import annotations

import sys
from typing import Any

from .. import _core
from .._imports import when_imported
from . import patcher

_core.set_tracing_functions(sys.gettrace, sys.settrace, sys.getprofile, sys.setprofile)

settrace = _core.settrace
setprofile = _core.setprofile
_set_asyncgen_hooks = sys.set_asyncgen_hooks
_get_asyncgen_hooks = sys.get_asyncgen_hooks


def set_asyncgen_hooks(*args: Any, **kwargs: Any) -> None:
    """An event loop sets them for as long as it runs; in a task, that may be beside others."""
    before = _get_asyncgen_hooks()
    _set_asyncgen_hooks(*args, **kwargs)
    _core.keep_generator_hooks(_set_asyncgen_hooks, tuple(before), tuple(_get_asyncgen_hooks()))


def _patch_profile(module: Any) -> None:
    """A profiler, which installs a function in C, sees the thread that has enabled it."""
    enable_original = module.Profile.enable

    def enable(self: Any, *args: Any, **kwargs: Any) -> None:
        _core.separate_profilers(enable_original)
        enable_original(self, *args, **kwargs)

    patcher.method(module.Profile, "enable", enable)


def patch() -> None:
    if sys.version_info < (3, 12):  # later ones see all threads
        when_imported("cProfile", _patch_profile)
    patcher.function(sys, "settrace", settrace)
    patcher.function(sys, "setprofile", setprofile)
    patcher.function(sys, "set_asyncgen_hooks", set_asyncgen_hooks)
