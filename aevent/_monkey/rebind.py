"""What was taken from the standard library before it was patched: found, and put right.

`from time import sleep` in a module that was imported first leaves the original there, and so does
`def wait(pause=time.sleep)`; a lock that such a module has made serves OS threads only. The
collector knows every container of the process, so whoever holds one of them is found, wherever it
is.

A name that stands for an original is given the replacement. An unlocked lock is replaced by a
hybrid one in all of its holders or in none: half of the code on the old one and half on the new
would exclude nobody. A `Condition`, `Event`, `Semaphore`, `Barrier` or `queue.Queue` stays the
object that it is, and only its inner lock changes, by the same rule. A class that is derived from
the original `threading.local` is made anew, with its objects.

Whatever modules of the hosts, of `PRIVATE_NEEDS` and of `KEEPERS` hold stays as it is.
"""

from __future__ import annotations

import functools
import gc
import queue
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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


class Finding(NamedTuple):
    """A place that held something of before."""

    module: str
    name: str
    what: str
    """What was there, and for what could not be mended why not."""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}: {self.what}"


#: What was put right, and what could not be.
rebound: list[Finding] = []
unmended: list[Finding] = []

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

_Lock: Any = originals.saved["_thread"]["LockType"]
_RLock: Any = originals.system_rlock
_Local: Any = originals.SystemLocal
_SimpleQueue: Any = originals.saved["queue"]["SimpleQueue"]
_KINDS: dict[Any, str] = {
    _Lock: "a lock",
    _RLock: "an RLock",
    _Local: "a threading.local",
    _SimpleQueue: "a SimpleQueue",
}

_MAKERS: tuple[Any, ...] = (originals.allocate_lock, _RLock, _Local, _SimpleQueue)

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


class _Unreachable(Exception):
    """This holder cannot be given another object."""


def _is_stdlib_private(name: str) -> bool:
    package = name.partition(".")[0]
    return package in PRIVATE_NEEDS or (
        package.startswith("_") and package in sys.stdlib_module_names
    )


class _Search:
    """One look over all objects."""

    def __init__(self, is_host: Callable[[str], bool]) -> None:
        self.is_host = is_host
        #: One of each kind, of which all references are known.
        self.probes = [make() for make in _MAKERS]
        # Before the rest: what is made below must not be found.
        self.objects = gc.get_objects()
        #: Original to replacement, by identity.
        self.new: dict[int, Any] = {}
        #: What has an entry in `new` or `holders`, so that no identity is reused.
        self.old: dict[int, Any] = {}
        #: Who refers to it.
        self.holders: dict[int, list[Any]] = {}
        #: What stands for a container that was replaced, by the identity of the first one.
        self.moved: dict[int, Any] = {}
        self.names = _module_names()
        #: For 3.10, when the first frame is found.
        self.frame_owners: dict[int, Any] | None = None
        self.kept: dict[str, bool] = {}
        self.alone = len(sys._current_frames()) == 1

    def run(self) -> None:
        for patch in patcher.patches:
            if _is_own(patch.original) and patch.original is not patch.replacement:
                self.old[id(patch.original)] = patch.original
                self.new.setdefault(id(patch.original), patch.replacement)
        functions = list(self.old.values())
        kinds = tuple(kind for kind in _KINDS if id(kind) in self.new)
        derived: list[Any] = []
        if _Local in kinds:
            derived = [kind for kind in _derived(_Local) if not self.is_kept(kind.__module__)]
        kinds += tuple(derived)
        self.climb(functions + derived, kinds)
        made = [key for key in self.holders if type(self.old[key]) in kinds]
        # All in the same way, so that what is more than for the probe of its kind is unknown.
        self.references = {key: self.count_references(key) for key in made}
        self.usual = {type(probe): self.references.get(id(probe), 0) for probe in self.probes}
        for function in functions:
            for holder in self.holders_of(function):
                self.rebind(holder, function)
        instances: dict[Any, list[Any]] = {kind: [] for kind in kinds}
        for key in made:
            if not any(self.old[key] is probe for probe in self.probes):
                instances[type(self.old[key])].append(self.old[key])
        for kind in _KINDS:
            for old in instances.get(kind, ()):
                self.mend(old)
        for kind in derived:
            self.mend_class(kind, instances[kind])

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
                if type(holder) in _OURS or holder is self.old:
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

    # --- functions and classes ---

    def rebind(self, holder: Any, old: Any) -> None:
        if self.stays(holder):
            return
        try:
            for place in self.put(holder, old, self.new[id(old)]):
                rebound.append(Finding(*place, _describe(old)))
        except _Unreachable:
            # One that is derived from a class of Python code makes its locks by the patched names.
            if is_a(holder, type) and old in (_RLock, _SimpleQueue):
                reason = f"is derived from {_describe(old)}, which serves OS threads only"
                unmended.append(Finding(module_of_class(holder), holder.__qualname__, reason))

    # --- locks ---

    def mend(self, old: Any) -> None:
        """Replaces what was made by an original class in all of its holders, or in none."""
        holders = self.holders_of(old)
        if all(is_a(holder, deque) or self.stays(holder) for holder in holders):
            # In a deque are the locks of those who wait for a condition, in real threads.
            return
        what = _KINDS.get(type(old), "an object of its class")
        places = [place for holder in holders for place in self.places(holder, old)]
        if all(self.is_kept(module) for module, _ in places):
            return
        try:
            self.check(old)
            new, done = self.substitute(old)
        except _Unreachable as error:
            for place in places[:1]:
                unmended.append(Finding(*place, f"{what} that {error}"))
            return
        try:
            put = [place for holder in holders for place in self.put(holder, old, new)]
        finally:
            done()
        rebound.extend(Finding(*place, what) for place in dict.fromkeys(put))

    def mend_class(self, old: Any, instances: list[Any]) -> None:
        """Replaces a class that is derived from the original `threading.local`, and its objects."""
        try:
            if type(old) is not type or "__slots__" in vars(old):
                raise _Unreachable("has a metaclass or slots")
            for instance in instances:
                try:
                    self.check(instance)
                    self.check_threads(instance)
                except _Unreachable as error:
                    raise _Unreachable(f"has an object that {error}") from error
            bases = tuple(self.new.get(id(base), base) for base in old.__bases__)
            body = {
                name: value
                for name, value in vars(old).items()
                if name not in ("__dict__", "__weakref__")
            }
            try:
                new: Any = type(old)(old.__name__, bases, body)
            except TypeError as error:
                raise _Unreachable(f"cannot be derived anew: {error}") from error
        except _Unreachable as error:
            reason = f"is derived from {_describe(_Local)} and {error}"
            unmended.append(Finding(module_of_class(old), old.__qualname__, reason))
            return
        self.new[id(old)] = new
        for holder in self.holders_of(old):
            if not is_a(holder, type) and type(holder) is not old:
                try:
                    self.put(holder, old, new)
                except _Unreachable:
                    continue  # what the interpreter keeps about classes, such as their bases
        rebound.append(Finding(module_of_class(old), old.__qualname__, _describe(_Local)))
        for instance in instances:
            self.mend(instance)

    def check(self, old: Any) -> None:
        """Whether each of its holders can be given another object."""
        seen: set[int] = set()

        def look(holder: Any, held: Any) -> None:
            if is_a(holder, (tuple, frozenset, types.MethodType, types.BuiltinMethodType)):
                if id(holder) not in seen:
                    seen.add(id(holder))
                    for other in self.holders_of(holder):
                        look(other, holder)
            elif is_a(holder, types.FunctionType) and holder.__defaults__ is held:
                pass
            elif not is_a(holder, ANONYMOUS) and not attributes(holder, held):
                raise _Unreachable(f"a {type(holder).__qualname__} refers to as well")

        for holder in self.holders_of(old):
            look(holder, old)
        if self.references[id(old)] > self.usual[type(old) if type(old) in _KINDS else _Local]:
            raise _Unreachable("somebody refers to who cannot be found")

    def check_threads(self, local: Any) -> None:
        """Whether the local has attributes of this thread only."""
        local.__dict__  # noqa: B018 - from now on this thread is one of those that have used it
        if not self.alone and _threads_of(local) > 1:
            raise _Unreachable("other threads have attributes of")

    def substitute(self, old: Any) -> tuple[Any, Callable[[], object]]:
        """What stands for it from now on; and what to call when that is done."""
        kind = type(old)
        if issubclass(kind, _Local):
            self.check_threads(old)
            args, kwargs = _arguments(old)
            new: Any = self.new[id(kind)]
            new = new.__new__(new, *args, **kwargs)
            new.__dict__.update(old.__dict__)
            return new, _nothing
        if kind is _SimpleQueue:
            if not self.alone:
                raise _Unreachable("other threads may wait for")
            new = _core.SimpleQueue()
            while not old.empty():
                new.put(old.get_nowait())
            return new, _nothing
        if kind is _RLock and old._is_owned():
            raise _Unreachable("is held")
        if not old.acquire(False):
            raise _Unreachable("is held")
        return (_core.RLock() if kind is _RLock else _core.Lock()), old.release

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
                    raise _Unreachable
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
                except _Unreachable:
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
                        raise _Unreachable from error
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


_OURS = (_core.PatchedFunction, _core.PatchedMethod, patcher.Patch, Finding, _Search)


def _nothing() -> None:
    pass


def _derived(kind: type) -> list[type]:
    """The classes derived from it, each after its bases."""
    found: dict[type, None] = {}
    direct: type
    for direct in kind.__subclasses__():
        for each in (direct, *_derived(direct)):
            found.pop(each, None)
            found[each] = None
    return list(found)


def _arguments(local: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What it was made with, which it keeps for the `__init__` of other threads."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    for part in gc.get_referents(local):
        if type(part) is tuple:
            args = part
        elif type(part) is dict and part and all(isinstance(name, str) for name in part):
            kwargs = part
    return args, kwargs


def _threads_of(local: Any) -> int:
    """In how many threads that are alive it was used."""
    for part in gc.get_referents(local):
        # What stands for a thread, to that thread's attributes.
        if type(part) is dict and part and not any(isinstance(key, str) for key in part):
            return len(part)
    return 0


def _is_own(original: Any) -> bool:
    """Whether an original is a function or class that stands for itself.

    Not what a class has inherited from `object`, which others have as well.
    """
    return isinstance(original, type) or (
        callable(original) and getattr(original, "__objclass__", None) is not object
    )


def _module_names() -> dict[int, str]:
    names: dict[int, str] = {}
    for name, module in list(sys.modules.items()):
        if is_a(module, types.ModuleType):
            # Not `vars`: that would load a module that is to be loaded when it is used.
            names.setdefault(id(object.__getattribute__(module, "__dict__")), name)
    return names


def _describe(old: Any) -> str:
    module = getattr(old, "__module__", None)
    name = getattr(old, "__qualname__", None) or repr(old)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def rebind(is_host: Callable[[str], bool]) -> Iterable[Finding]:
    """Puts right what was taken before; returns what cannot be. `is_host`: whose names stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        _Search(is_host).run()
    finally:
        if collects:
            gc.enable()
    return unmended
