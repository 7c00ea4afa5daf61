"""One look over all objects: who holds some of them, whose that is, and how it is given others."""

from __future__ import annotations

import functools
import gc
import queue
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .. import _core
from . import originals, patcher
from .holders import (
    ANONYMOUS,
    THREADS_OWN,
    attributes,
    frame_owners,
    is_a,
    module_of_class,
    module_of_frame,
    replaced,
)

#: Modules of the standard library that need the originals: those that are patched, which use them
#: to be what they were for OS threads, and those that import modules.
PRIVATE_NEEDS = {
    *("atexit", "builtins", "fcntl", "gc", "importlib", "io", "os", "posix", "queue", "select"),
    *(
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "threading",
        "time",
        "zipimport",
    ),
}

#: Packages that have taken originals on purpose.
KEEPERS = {
    *("aevent", "coverage", "eventlet", "gevent", "greenlet"),
    *("debugpy", "pydevd", "_pydev_bundle", "_pydev_runfiles", "_pydevd_bundle"),
    *("_pydevd_frame_eval", "_pydevd_sys_monitoring"),
}

#: Classes whose objects are looked through: their module does not tell whose they are.
_TRANSPARENT: tuple[type, ...] = (
    *(
        originals.saved["threading"][name]
        for name in ("Condition", "Event", "Semaphore", "Barrier", "Timer")
    ),
    queue.Queue,
    functools.cached_property,
)

_LOOKED_THROUGH = ANONYMOUS + _TRANSPARENT

#: How far the holders of holders are followed, until a module, a class, a function or an object.
_DEPTH = 6


_OURS = (_core.PatchedFunction, _core.PatchedMethod, patcher.Patch)


class Unreachable(Exception):
    """This holder cannot be given another object."""


def _is_stdlib_private(name: str) -> bool:
    package = name.partition(".")[0]
    return package in PRIVATE_NEEDS or (
        package.startswith("_") and package in sys.stdlib_module_names
    )


class Search:
    """The objects that there were when it was made, and who holds which of them."""

    def __init__(self, is_host: Callable[[str], bool]) -> None:
        self.is_host = is_host
        # Before the rest: what is made below must not be found.
        self.objects = gc.get_objects()
        #: What has been looked for, and what is in `holders`, so that no identity is reused.
        self.old: dict[int, Any] = {}
        #: Who refers to it.
        self.holders: dict[int, list[Any]] = {}
        #: What stands for a container that was replaced, by the identity of the first one.
        self.moved: dict[int, Any] = {}
        self.names = _module_names()
        #: For 3.10, when the first frame is found.
        self.frame_owners: dict[int, Any] | None = None
        self.kept: dict[str, bool] = {}

    def count_references(self, key: int) -> int:
        """How many references to it there are besides those of its holders."""
        return sys.getrefcount(self.old[key]) - len(self.holders[key])

    def holders_of(self, held: Any) -> list[Any]:
        """Each of them once."""
        found = {id(holder): holder for holder in self.holders.get(id(held), ())}
        return [self.moved.get(key, holder) for key, holder in found.items()]

    def climb(self, functions: list[Any], kinds: tuple[Any, ...]) -> None:
        """Finds the holders, and those of anonymous holders."""
        targets = functions
        for level in range(_DEPTH):
            found = _core.referrers(self.objects, targets, kinds if level == 0 else ())
            targets = []
            for holder, referent in found:
                if type(holder) in _OURS or holder is self or holder is self.old:
                    continue
                if sys.version_info < (3, 11) and type(holder) is types.FrameType:
                    if self.frame_owners is None:
                        self.frame_owners = frame_owners(self.objects)
                    holder = self.frame_owners.get(id(holder), holder)
                self.old.setdefault(id(referent), referent)
                self.holders.setdefault(id(referent), []).append(holder)
                key = id(holder)
                if is_a(holder, _LOOKED_THROUGH) and key not in self.old:
                    self.old[key] = holder
                    if key not in self.names:
                        targets.append(holder)
            if not targets:
                break

    # --- whose it is ---

    def is_kept(self, module: Any) -> bool:
        """Whether what the module holds is to stay."""
        if not isinstance(module, str):
            return False
        kept = self.kept.get(module)
        if kept is None:
            kept = self.kept[module] = (
                _is_stdlib_private(module)
                or module.partition(".")[0] in KEEPERS
                or self.is_host(module)
            )
        return kept

    def owners(self, holder: Any, seen: set[int] | None = None) -> set[str]:
        """The modules that it belongs to; none if nobody knows."""
        name = self.names.get(id(holder))
        if name is not None:
            return {name}
        if is_a(holder, types.FunctionType):
            name = holder.__globals__.get("__name__")
            return {name if isinstance(name, str) else "?"}
        if is_a(holder, type):
            return {module_of_class(holder)}
        if is_a(holder, types.ModuleType):
            name = object.__getattribute__(holder, "__dict__").get("__name__")
            return {name if isinstance(name, str) else "?"}
        if not is_a(holder, _LOOKED_THROUGH):
            return {module_of_frame(holder) or module_of_class(type(holder))}
        seen = set() if seen is None else seen
        if id(holder) in seen:
            return set()
        seen.add(id(holder))
        found: set[str] = set()
        for other in self.holders_of(holder):
            found |= self.owners(other, seen)
        return found

    def stays(self, holder: Any) -> bool:
        """Whether what is in the holder is to stay."""
        owners = self.owners(holder)
        if is_a(holder, dict) and (dict.__contains__(holder, "_aevent_orig") or not owners):
            # The latter may be that of a type in C, which the collector does not know.
            return True
        return bool(owners) and (
            all(self.is_kept(owner) for owner in owners)
            or any(owner.partition(".")[0] == "aevent" for owner in owners)
        )

    # --- holders ---

    def places(self, holder: Any, old: Any) -> list[tuple[str, str]]:
        """Where that is, by the names of modules and what is in them."""
        return self._visit(holder, old, None, set())

    def put(self, holder: Any, old: Any, new: Any) -> list[tuple[str, str]]:
        """Has the holder hold `new` in place of `old`, and says where that is."""
        return self._visit(holder, old, (new,), set())

    def _visit(
        self, holder: Any, old: Any, new: tuple[Any] | None, seen: set[int]
    ) -> list[tuple[str, str]]:
        """`places` if there is no `new`, else `put`."""
        if id(holder) in seen:
            return []
        seen.add(id(holder))
        if is_a(holder, dict):
            return self._visit_dict(holder, old, new, seen)
        if is_a(holder, types.FunctionType):
            if holder.__defaults__ is old and new:
                holder.__defaults__ = new[0]
            return [(holder.__module__ or "?", holder.__qualname__)]
        if not is_a(holder, ANONYMOUS):
            names = attributes(holder, old)
            if new:
                if not names:
                    raise Unreachable
                for _, put in names:
                    put(new[0])
            above = self._above(holder, seen) if is_a(holder, _TRANSPARENT) else []
            if above:
                return above
            owner = holder if is_a(holder, type) else type(holder)
            suspended_in = module_of_frame(holder)
            if suspended_in:
                return [(suspended_in, holder.__qualname__)]
            return [(module_of_class(owner), f"{owner.__qualname__}.{name}") for name, _ in names]
        if new is None:
            return self._above(holder, seen)
        other = replaced(holder, old, new[0])
        if other is None:
            return self._above(holder, seen)
        # It cannot be changed, so it is replaced itself.
        self.move(holder, other)
        places: list[tuple[str, str]] = []
        for above in self.holders_of(holder):
            if not self.stays(above):
                try:
                    places += self._visit(above, holder, (other,), seen)
                except Unreachable:
                    continue
        return places

    def move(self, holder: Any, other: Any) -> None:
        """Notes that `other` is in the place of `holder`."""
        self.holders[id(other)] = self.holders.get(id(holder), [])
        self.old[id(other)] = other
        for key, current in list(self.moved.items()):
            if current is holder:
                self.moved[key] = other
        self.moved[id(holder)] = other

    def _above(self, holder: Any, seen: set[int]) -> list[tuple[str, str]]:
        """Where a holder is that has no name itself."""
        above: list[tuple[str, str]] = []
        for other in self.holders_of(holder):
            above += self._visit(other, holder, None, seen)
        return above

    def _visit_dict(
        self, holder: dict[Any, Any], old: Any, new: tuple[Any] | None, seen: set[int]
    ) -> list[tuple[str, str]]:
        keys = [key for key, value in list(dict.items(holder)) if value is old]
        module = self.names.get(id(holder))
        others = self.holders_of(holder)
        kinds = [kind for kind in others if is_a(kind, type)]
        kinds = [kind for kind in kinds if any(vars(kind).get(key) is old for key in keys)]
        if new:
            for key in keys:
                for kind in kinds:
                    try:
                        # Not through the dictionary, which the interpreter has caches of.
                        type.__setattr__(kind, key, new[0])
                    except TypeError as error:
                        raise Unreachable from error
                if not kinds:
                    dict.__setitem__(holder, key, new[0])
            if dict.__contains__(holder, old) and not kinds and module is None:
                items = [(new[0] if key is old else key, v) for key, v in dict.items(holder)]
                base: Any = OrderedDict if is_a(holder, OrderedDict) else dict
                base.clear(holder)
                for key, value in items:
                    base.__setitem__(holder, key, value)
        if module is not None:
            return [(module, str(key)) for key in keys]
        if kinds:
            return [
                (module_of_class(kind), f"{kind.__qualname__}.{key}")
                for kind in kinds
                for key in keys
            ]
        above: list[tuple[str, str]] = []
        for other in others:
            if is_a(other, ANONYMOUS) or not _is_dict_of(holder, other):
                above += self._visit(other, holder, None, seen)
                continue
            # Since 3.11 an object mostly has no dictionary, and is a holder itself.
            named = self._above(other, seen) if is_a(other, _TRANSPARENT) else []
            owner = type(other)
            above += named or [
                (module_of_class(owner), f"{owner.__qualname__}.{key}")
                for key in keys
                if not (is_a(other, originals.SystemThread) and key in THREADS_OWN)
            ]
        return above


def _is_dict_of(holder: dict[Any, Any], owner: Any) -> bool:
    try:
        return object.__getattribute__(owner, "__dict__") is holder
    except Exception:  # a class may have defined what `__dict__` is
        return False


def _module_names() -> dict[int, str]:
    names: dict[int, str] = {}
    for name, module in list(sys.modules.items()):
        if is_a(module, types.ModuleType):
            # Not `vars`: that would load a module that is to be loaded when it is used.
            names.setdefault(id(object.__getattribute__(module, "__dict__")), name)
    return names
