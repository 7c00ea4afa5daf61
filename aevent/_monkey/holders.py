"""What can hold an object, and how it is given another one: for `rebind`."""

from __future__ import annotations

import functools
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any

#: What `threading.Thread` keeps for itself; whoever starts and ends real threads uses it.
THREADS_OWN = frozenset(("_tstate_lock", "_started", "_handle", "_os_thread_handle"))

#: Containers that belong to whoever holds them.
ANONYMOUS = (
    dict,
    tuple,
    list,
    set,
    frozenset,
    deque,
    types.CellType,
    types.MethodType,
    types.BuiltinMethodType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
)

#: Suspended functions, whose variables nobody but they can change; where their frames are.
FRAMES: dict[type, str] = {
    types.GeneratorType: "gi_frame",
    types.CoroutineType: "cr_frame",
    types.AsyncGeneratorType: "ag_frame",
}


def is_a(holder: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether it is one of those, whatever it says itself.

    `isinstance` asks for the `__class__` of what is something else, and a proxy then loads what it
    stands for.
    """
    return issubclass(type(holder), kinds)


def attributes(holder: Any, value: Any) -> list[tuple[str, Callable[[Any], object]]]:
    """The attributes of an object that are `value`, each with what sets it."""
    found: list[tuple[str, Callable[[Any], object]]] = []
    if is_a(holder, (type, types.FunctionType, types.ModuleType)):
        return found
    try:
        own: Any = object.__getattribute__(holder, "__dict__")
    except Exception:  # a class may have defined what `__dict__` is
        own = {}
    if is_a(own, dict):
        for name, present in list(dict.items(own)):
            if present is value and not (is_a(holder, threading.Thread) and name in THREADS_OWN):
                found.append((name, functools.partial(dict.__setitem__, own, name)))
    for kind in type(holder).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType) and isinstance(name, str):
                try:
                    if member.__get__(holder, type(holder)) is value and _is_writable(kind):
                        found.append((name, functools.partial(member.__set__, holder)))
                except AttributeError:
                    continue
    return found


def module_of_frame(holder: Any) -> str | None:
    """The module of a suspended function; None of anything else."""
    attribute = FRAMES.get(type(holder))
    frame = getattr(holder, attribute) if attribute is not None else None
    return frame.f_globals.get("__name__", "?") if frame is not None else None


def frame_owners(objects: list[Any]) -> dict[int, Any]:
    """The suspended functions among the objects, by the identities of their frames.

    Until 3.10 it is the frame that refers to the variables. It does not tell whose it is.
    """
    found: dict[int, Any] = {}
    for each in objects:
        attribute = FRAMES.get(type(each))
        if attribute is not None and getattr(each, attribute) is not None:
            found[id(getattr(each, attribute))] = each
    return found


def module_of_class(kind: type) -> str:
    """The name of its module; `"?"` if the class has something else there."""
    module: object = kind.__module__
    return module if isinstance(module, str) else "?"


def _is_writable(kind: type) -> bool:
    """Whether its members are slots of a class that Python code has defined."""
    return "__slots__" in vars(kind)


def replaced(holder: Any, old: Any, new: Any) -> Any:
    """Changes an anonymous container; returns another one if it cannot be changed, else None.

    Not by the methods of a class that is derived from the container's: they may do anything.
    """
    if is_a(holder, list):
        for index, value in enumerate(list.__iter__(holder)):
            if value is old:
                list.__setitem__(holder, index, new)
    elif is_a(holder, set):
        set.discard(holder, old)
        set.add(holder, new)
    elif is_a(holder, deque):
        for index, value in enumerate(list(deque.__iter__(holder))):
            if value is old:
                deque.__setitem__(holder, index, new)
    elif is_a(holder, types.CellType):
        holder.cell_contents = new
    elif is_a(holder, functools.partial):
        state: Any = holder.__reduce__()[2]
        function, args, keywords, own = state
        holder.__setstate__(
            (
                new if function is old else function,
                new if args is old else args,
                new if keywords is old else keywords,
                own,
            )
        )
    elif is_a(holder, (staticmethod, classmethod)):
        holder.__init__(new)
    elif is_a(holder, property):
        functions = (holder.fget, holder.fset, holder.fdel)
        holder.__init__(
            *[new if function is old else function for function in functions], holder.__doc__
        )
    elif is_a(holder, types.MethodType):
        function, instance = holder.__func__, holder.__self__
        return types.MethodType(
            new if function is old else function, new if instance is old else instance
        )
    elif is_a(holder, types.BuiltinMethodType):
        return getattr(new, holder.__name__)
    elif is_a(holder, (tuple, frozenset)):
        if is_a(holder, tuple):
            values = [new if value is old else value for value in tuple.__iter__(holder)]
            return tuple.__new__(type(holder), values)
        values = [new if value is old else value for value in frozenset.__iter__(holder)]
        return frozenset.__new__(type(holder), values)
    return None
