"""Modules that are patched as soon as they are loaded, rather than loaded to be patched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Module name to what is to be done to it.
_waiting: dict[str, Callable[[ModuleType], None]] = {}


def when_loaded(name: str, patch: Callable[[Any], None]) -> None:
    """Calls `patch(module)`: now if the module is loaded, else right after it was."""
    module = sys.modules.get(name)
    if module is not None:
        patch(module)
        return
    _waiting[name] = patch
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Has the others find a module that somebody waits for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                _call_when_loaded(spec)
                return spec  # type: ignore[no-any-return]
        return None


def _call_when_loaded(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    load: Callable[[ModuleType], None] | None = getattr(loader, "exec_module", None)
    # A class that is its own loader serves other modules too.
    if load is None or isinstance(loader, type):
        return

    def exec_module(module: ModuleType) -> None:
        vars(loader).pop("exec_module", None)
        load(module)
        patch = _waiting.pop(spec.name, None)
        if patch is not None:
            patch(module)

    # Of this object only, which has been made for this module.
    loader.exec_module = exec_module
