"""The hosts keep the originals: in their modules, patched names stand for what they did before.

A host's own code must not park half way: asyncio and trio count on running undisturbed between two
awaits, and their worker threads, selectors and child watchers have to be real. So the globals of
their modules that refer to something patched are exchanged when the module is loaded: a module for
a view of it, a class or function for its original. Which modules are patched, and what is, comes
from the patcher, so this need not know any of them.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .. import _core
from .._imports import find_by_others
from . import nested_loops, originals, patcher, real_threads
from .threading import HOSTS, SystemThread

#: What tells one thread from another, or is kept for each. A host's loop may run in a green thread,
#: and is then that thread's; outside them these answer as the originals do.
_IDENTITY = {
    ("_thread", "get_ident"),
    ("_thread", "_local"),
    ("threading", "get_ident"),
    ("threading", "current_thread"),
    ("threading", "local"),
    ("sys", "set_asyncgen_hooks"),
}

#: Module name to attribute to a pair: what is in the module, and what the hosts get for it.
_given: dict[str, dict[str, tuple[Any, Any]]] = {}
_views: dict[str, _core.ModuleView] = {}
#: A replacement's identity to what the hosts get for it.
_stands_for: dict[int, Any] = {}
_mended: dict[str, ModuleType] = {}
#: Modules whose code runs at the moment, perhaps in another OS thread: they are mended after it.
_under_way: set[str] = set()


def _collect() -> None:
    """Finds out what is patched by now, and what the hosts get instead."""
    for owner, name, original, replacement in patcher.patches:
        if not isinstance(owner, ModuleType) or (owner.__name__, name) in _IDENTITY:
            continue
        _give(owner, name, replacement, original)
    for module, name, replacement, given in (
        (threading, "Thread", originals.SystemThread, SystemThread),
        # `threading.RLock` is a factory that asks the module for the class, which is patched.
        (threading, "RLock", _core.RLock, originals.system_rlock),
        *((signal, name, signal.__dict__[name], new) for name, new in nested_loops.SIGNAL.items()),
    ):
        if module.__name__ in _given:
            _give(module, name, replacement, given)
    for name in list(_given):
        _view(name)


def _give(owner: ModuleType, name: str, replacement: Any, given: Any) -> None:
    _given.setdefault(owner.__name__, {})[name] = (replacement, given)
    _stands_for[id(replacement)] = given


def _view(name: str) -> _core.ModuleView:
    view = _views.get(name)
    if view is None:
        module = sys.modules[name]
        view = _views[name] = _core.ModuleView(module, _given.setdefault(name, {}))
        parent, _, last = name.rpartition(".")
        if parent:
            _give(sys.modules[parent], last, module, view)
            _view(parent)
    return view


def belongs(name: str) -> bool:
    """Whether the module is a host's."""
    return name.partition(".")[0] in HOSTS


def _mend(module: ModuleType) -> None:
    """Gives the originals to a module of a host's."""
    _mended[module.__name__] = module
    for key, value in list(vars(module).items()):
        if key.startswith("__"):
            continue
        if isinstance(value, ModuleType):
            if value.__name__ in _views and sys.modules.get(value.__name__) is value:
                setattr(module, key, _views[value.__name__])
        elif isinstance(value, (originals.SystemLocal, _core.local)):
            setattr(module, key, nested_loops.task_local(value))
        elif id(value) in _stands_for:
            setattr(module, key, _stands_for[id(value)])
    nested_loops.prepare(module)


def keep_originals() -> None:
    """Gives the originals to the hosts' modules: those that are loaded, and those that will be."""
    _collect()
    loaded: list[tuple[str, Any]] = list(sys.modules.items())
    for name, module in loaded:
        if not belongs(name) or name in _under_way:
            continue
        # Anything may stand there.
        if isinstance(module, ModuleType) and _mended.get(name) is not module:
            _mend(module)
    real_threads.prepare_loaded()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Has the others find a host's module, and mends it as soon as it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not (belongs(fullname) or real_threads.belongs(fullname)):
            return None
        spec = find_by_others(self, fullname, path, target)
        if spec is not None:
            _mend_when_loaded(spec)
        return spec


class _MendingLoader(Loader):
    """Takes a loader's place until the module is about to run, and mends it when it has."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        _under_way.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            _under_way.discard(module.__name__)
        if belongs(module.__name__):
            _mend(module)
        else:
            real_threads.prepare(module)


def _mend_when_loaded(spec: ModuleSpec) -> None:
    # Namespace packages have nothing that could be mended.
    if hasattr(spec.loader, "exec_module"):
        spec.loader = _MendingLoader(spec.loader)
