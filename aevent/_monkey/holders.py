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


def attributes(holder: Any, value: Any) -> list[tuple[str, Callable[[Any], object]]]:
    """The attributes of an object that are `value`, each with what sets it."""
    found: list[tuple[str, Callable[[Any], object]]] = []
    if isinstance(holder, (type, types.FunctionType, types.ModuleType)):
        return found
    try:
        own = object.__getattribute__(holder, "__dict__")
    except (AttributeError, TypeError):
        own = {}
    if isinstance(own, dict):
        for name, present in list(own.items()):
            if present is value and not (
                isinstance(holder, threading.Thread) and name in THREADS_OWN
            ):
                found.append((name, functools.partial(own.__setitem__, name)))
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
    frame = getattr(holder, FRAMES.get(type(holder), ""), None)
    return frame.f_globals.get("__name__", "?") if frame is not None else None


def _is_writable(kind: type) -> bool:
    """Whether its members are slots of a class that Python code has defined."""
    return "__slots__" in vars(kind)


def replaced(holder: Any, old: Any, new: Any) -> Any:
    """Changes an anonymous container; returns another one if it cannot be changed, else None."""
    if isinstance(holder, list):
        for index, value in enumerate(holder):
            if value is old:
                holder[index] = new
    elif isinstance(holder, set):
        holder.discard(old)
        holder.add(new)
    elif isinstance(holder, deque):
        for index, value in enumerate(list(holder)):
            if value is old:
                holder[index] = new
    elif isinstance(holder, types.CellType):
        holder.cell_contents = new
    elif isinstance(holder, functools.partial):
        state: Any = holder.__reduce__()[2]
        function, args, keywords, own = state
        holder.__setstate__(  # type: ignore[attr-defined]
            (
                new if function is old else function,
                new if args is old else args,
                new if keywords is old else keywords,
                own,
            )
        )
    elif isinstance(holder, (staticmethod, classmethod)):
        holder.__init__(new)  # type: ignore[misc]
    elif isinstance(holder, property):
        functions = (holder.fget, holder.fset, holder.fdel)
        holder.__init__(  # type: ignore[misc]
            *[new if function is old else function for function in functions], holder.__doc__
        )
    elif isinstance(holder, types.MethodType):
        function, instance = holder.__func__, holder.__self__
        return types.MethodType(
            new if function is old else function, new if instance is old else instance
        )
    elif isinstance(holder, types.BuiltinMethodType):
        return getattr(new, holder.__name__)
    elif isinstance(holder, (tuple, frozenset)):
        values = [new if value is old else value for value in holder]
        if isinstance(holder, tuple):
            return tuple.__new__(type(holder), values)
        return type(holder)(values)
    return None
