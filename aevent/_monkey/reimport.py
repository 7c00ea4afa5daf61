"""A C module that is imported again, as a new module object, gets what was patched in the first.

Test suites do that (`sys.modules` is emptied of a module, and it is imported), and so do some
plugin loaders. A module in Python builds on patched ones and needs nothing; one in C brings its own
functions and classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Module name to the names that a new one is given.
_names: dict[str, dict[str, Any]] = {}


class _Loader(Loader):
    """The module's own loader, and then what was patched."""

    def __init__(self, loader: Any, names: dict[str, Any]) -> None:
        self._loader = loader
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # The program is to see the module's own loader.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        vars(module).update(self._names)


class _Finder(MetaPathFinder):
    """Asks the other finders for the modules that it knows."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        names = _names.get(fullname)
        if names is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, names)
                return spec
        return None


def provide(module: ModuleType, *names: str) -> None:
    """Has a new `module` of the same name get these names of this one."""
    if not _names:
        sys.meta_path.insert(0, _Finder())
    _names[module.__name__] = {name: getattr(module, name) for name in names}
