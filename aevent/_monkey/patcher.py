"""Saving, setting and reporting what is patched. The modules beside this one say what."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from .. import _core


class Patch(NamedTuple):
    """One name that was replaced."""

    owner: ModuleType | type
    name: str
    original: Any
    replacement: Any


#: Everything that is patched at the moment, in order.
patches: list[Patch] = []


def _set(owner: ModuleType | type, name: str, original: Any, replacement: Any) -> None:
    patches.append(Patch(owner, name, original, replacement))
    try:
        setattr(owner, name, replacement)
    except TypeError:
        if not isinstance(owner, type):
            raise
        # A class that is written in C.
        _core.set_class_attribute(owner, name, replacement)


def make_pair(original: Any, new: Any, *, name: str, qualname: str, module: str) -> Any:
    """A function that is `new` in a task and `original` elsewhere."""
    return _core.PatchedFunction(original, new, name, qualname, module)


def function(
    owner: ModuleType, name: str, new: Callable[..., Any], *, also: ModuleType | None = None
) -> None:
    """Replaces a module's function by one that decides at each call.

    `also` is the module in C that `owner` has it from, if its name there is known to users.
    """
    original = getattr(owner, name)
    pair = make_pair(
        original,
        new,
        name=getattr(original, "__name__", name),
        qualname=getattr(original, "__qualname__", name),
        module=getattr(original, "__module__", None) or owner.__name__,
    )
    _set(owner, name, original, pair)
    if also is not None and getattr(also, name, None) is original:
        _set(also, name, original, pair)


def share(owner: ModuleType, name: str, pair: Any) -> None:
    """Puts a pair that `function` made where the same original has another name."""
    _set(owner, name, getattr(owner, name), pair)


def method(owner: type, name: str, new: Callable[..., Any]) -> None:
    """Replaces a class's method by one that decides at each call."""
    original = getattr(owner, name)
    pair = _core.PatchedMethod(
        original, new, name, f"{owner.__qualname__}.{name}", owner.__module__
    )
    _set(owner, name, original, pair)


def always(owner: ModuleType | type, name: str, new: Any) -> None:
    """Replaces a function by one that itself tells tasks from threads."""
    original = getattr(owner, name)
    if isinstance(new, _core.PatchedMethod):
        new.__wrapped__ = new._aevent_orig = original
        new.__doc__ = original.__doc__
    else:
        _describe(new, original, name, owner)
    _set(owner, name, original, new)


def _describe(new: Any, original: Any, name: str, owner: ModuleType | type) -> None:
    """Has a function of ours look like the original that it replaces."""
    new.__name__ = getattr(original, "__name__", name)
    new.__qualname__ = getattr(original, "__qualname__", name)
    new.__module__ = owner.__module__ if isinstance(owner, type) else owner.__name__
    new.__doc__ = original.__doc__
    new.__wrapped__ = original
    new._aevent_orig = original
    new._aevent_new = new
    new._aevent_select = lambda: new if _core.in_task() else original


def in_place(owner: ModuleType, name: str, *bases: type) -> type:
    """Says of a class whose methods are about to be patched what it was.

    The original that it gets is a subclass: its objects pass for the class's, and behave as they
    did before, whoever uses them. `bases` are the originals of the class's own bases.
    """
    kind: Any = getattr(owner, name)
    original: Any = type(kind.__name__, (kind, *bases), {"__slots__": (), "__doc__": kind.__doc__})
    original.__module__, original.__qualname__ = kind.__module__, kind.__qualname__
    kind._aevent_orig = original
    kind._aevent_new = kind
    kind._aevent_select = staticmethod(lambda: kind if _core.in_task() else original)
    return original  # type: ignore[no-any-return]


def keep_in(original: type, *names: str) -> None:
    """Gives what `in_place` returned the methods, which are not patched yet."""
    for name in names:
        setattr(original, name, getattr(original.__mro__[1], name))


def hybrid(owner: ModuleType, name: str, kind: Any) -> None:
    """Replaces a class, or its factory, by one whose objects serve tasks and OS threads alike."""
    original = getattr(owner, name)
    if not hasattr(kind, "_aevent_orig"):
        kind._aevent_orig = original
        kind._aevent_new = kind
        kind._aevent_select = staticmethod(lambda: kind if _core.in_task() else original)
    _set(owner, name, original, kind)
