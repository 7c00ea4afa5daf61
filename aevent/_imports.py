"""Doing something when a module is imported: for rules and drivers that may come later."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

#: Module name to what is called with it, once it is imported.
_waiting: dict[str, list[Callable[[ModuleType], object]]] = {}


def when_imported(name: str, callback: Callable[[ModuleType], object]) -> None:
    """Calls `callback(module)` when the module was imported: now, if it was already.

    Called once, in the import, when the module's code has run. What it raises is raised by the
    import.
    """
    module = sys.modules.get(name)
    if module is not None and name not in _finder.under_way:
        callback(module)
        return
    _waiting.setdefault(name, []).append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(name: str, callback: Callable[[ModuleType], object]) -> None:
    """Takes a `when_imported` back."""
    callbacks = _waiting.get(name, [])
    if callback in callbacks:
        callbacks.remove(callback)
    if not callbacks:
        _waiting.pop(name, None)
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def find_by_others(
    finder: importlib.abc.MetaPathFinder,
    fullname: str,
    path: Sequence[str] | None,
    target: ModuleType | None,
) -> importlib.machinery.ModuleSpec | None:
    """What the finders that come after `finder` find. Those before it have been asked already.

    To ask all others would have two finders like this one ask each other for ever.
    """
    finders = list(sys.meta_path)
    after = finders[finders.index(finder) + 1 :] if finder in finders else finders
    for other in after:
        find_spec = getattr(other, "find_spec", None)
        spec = None if find_spec is None else find_spec(fullname, path, target)
        if spec is not None:
            found: importlib.machinery.ModuleSpec = spec
            return found
    return None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it has the loaders of awaited modules tell."""

    def __init__(self) -> None:
        #: Modules whose code runs at the moment, so that they are in `sys.modules` but not whole.
        self.under_way: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _waiting:
            return None
        spec = find_by_others(self, fullname, path, target)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Stands for a module's loader until the module is executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        # Nobody is to see that this was here.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        _finder.under_way.add(name)
        try:
            self._loader.exec_module(module)
        finally:
            _finder.under_way.discard(name)
        # It may have put another object in its place.
        module = sys.modules.get(name, module)
        for callback in _waiting.pop(name, ()):
            callback(module)
        if not _waiting and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


_finder = _Finder()
