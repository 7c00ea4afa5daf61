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

Whatever modules of the hosts hold, and those of `PRIVATE_NEEDS` and `KEEPERS` in `search`, stays
as it is.
"""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import _core
from . import originals, patcher
from .holders import ANONYMOUS, attributes, is_a, module_of_class
from .search import Search, Unreachable


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


class _Rebinding(Search):
    """Puts right what one look has found."""

    def __init__(self, is_host: Callable[[str], bool]) -> None:
        #: One of each kind, of which all references are known.
        self.probes = [make() for make in _MAKERS]
        super().__init__(is_host)
        #: Original to replacement, by identity.
        self.new: dict[int, Any] = {}
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

    # --- functions and classes ---

    def rebind(self, holder: Any, old: Any) -> None:
        if self.stays(holder):
            return
        try:
            for place in self.put(holder, old, self.new[id(old)]):
                rebound.append(Finding(*place, _describe(old)))
        except Unreachable:
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
        except Unreachable as error:
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
                raise Unreachable("has a metaclass or slots")
            for instance in instances:
                try:
                    self.check(instance)
                    self.check_threads(instance)
                except Unreachable as error:
                    raise Unreachable(f"has an object that {error}") from error
            bases = tuple(self.new.get(id(base), base) for base in old.__bases__)
            body = {
                name: value
                for name, value in vars(old).items()
                if name not in ("__dict__", "__weakref__")
            }
            try:
                new: Any = type(old)(old.__name__, bases, body)
            except TypeError as error:
                raise Unreachable(f"cannot be derived anew: {error}") from error
        except Unreachable as error:
            reason = f"is derived from {_describe(_Local)} and {error}"
            unmended.append(Finding(module_of_class(old), old.__qualname__, reason))
            return
        self.new[id(old)] = new
        for holder in self.holders_of(old):
            if not is_a(holder, type) and type(holder) is not old:
                try:
                    self.put(holder, old, new)
                except Unreachable:
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
                raise Unreachable(f"a {type(holder).__qualname__} refers to as well")

        for holder in self.holders_of(old):
            look(holder, old)
        if self.references[id(old)] > self.usual[type(old) if type(old) in _KINDS else _Local]:
            raise Unreachable("somebody refers to who cannot be found")

    def check_threads(self, local: Any) -> None:
        """Whether the local has attributes of this thread only."""
        local.__dict__  # noqa: B018 - from now on this thread is one of those that have used it
        if not self.alone and _threads_of(local) > 1:
            raise Unreachable("other threads have attributes of")

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
                raise Unreachable("other threads may wait for")
            new = _core.SimpleQueue()
            while not old.empty():
                new.put(old.get_nowait())
            return new, _nothing
        if kind is _RLock and old._is_owned():
            raise Unreachable("is held")
        if not old.acquire(False):
            raise Unreachable("is held")
        return (_core.RLock() if kind is _RLock else _core.Lock()), old.release


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


def _describe(old: Any) -> str:
    module = getattr(old, "__module__", None)
    name = getattr(old, "__qualname__", None) or repr(old)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def rebind(is_host: Callable[[str], bool]) -> Iterable[Finding]:
    """Puts right what was taken before; returns what cannot be. `is_host`: whose names stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        _Rebinding(is_host).run()
    finally:
        if collects:
            gc.enable()
    return unmended
