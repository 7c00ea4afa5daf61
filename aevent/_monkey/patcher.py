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
    setattr(owner, name, replacement)


def make_pair(original: Any, new: Any, *, name: str, qualname: str, module: str) -> Any:
    """A function that is `new` in a task and `original` elsewhere."""
    return _core.PatchedFunction(original, new, name, qualname, module)


def function(owner: ModuleType, name: str, new: Callable[..., Any]) -> None:
    """Replaces a module's function by one that decides at each call."""
    original = getattr(owner, name)
    pair = make_pair(
        original,
        new,
        name=getattr(original, "__name__", name),
        qualname=getattr(original, "__qualname__", name),
        module=getattr(original, "__module__", None) or owner.__name__,
    )
    _set(owner, name, original, pair)


def method(owner: type, name: str, new: Callable[..., Any]) -> None:
    """Replaces a class's method by one that decides at each call."""
    original = getattr(owner, name)
    pair = _core.PatchedMethod(
        original, new, name, f"{owner.__qualname__}.{name}", owner.__module__
    )
    _set(owner, name, original, pair)


def always(owner: ModuleType | type, name: str, new: Any) -> None:
    """Replaces a name by what is the same for tasks and threads."""
    _set(owner, name, getattr(owner, name), new)


def hybrid(owner: ModuleType, name: str, kind: Any) -> None:
    """Replaces a class, or its factory, by one whose objects serve tasks and OS threads alike."""
    original = getattr(owner, name)
    if not hasattr(kind, "_aevent_orig"):
        kind._aevent_orig = original
        kind._aevent_new = kind
        kind._aevent_select = staticmethod(lambda: kind if _core.in_task() else original)
    _set(owner, name, original, kind)


def originals_of() -> dict[int, Any]:
    """What each replacement stands for, by the replacement's identity."""
    return {id(patch.replacement): patch.original for patch in patches}
