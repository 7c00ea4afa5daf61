"""Packages that wait in C on threads of their own: those threads stay real.

A green thread that waits in C would keep everybody from running. Their locks are those that serve
tasks and OS threads alike, so green threads may wait for what their threads do.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import _core
from . import originals
from .threading import HOSTS, REAL_THREADS, SystemThread

#: Methods that wait in C, in the caller's thread: a task has a real thread call them.
WAIT_IN_C = {
    "grpc._channel": ("_UnaryUnaryMultiCallable._blocking", "_StreamUnaryMultiCallable._blocking"),
}


def belongs(name: str) -> bool:
    """Whether the module is of a package whose threads stay real."""
    return name.partition(".")[0] in REAL_THREADS - HOSTS


def prepare(module: ModuleType) -> None:
    """Has the threads that the module starts be real ones."""
    start = _thread.start_new_thread
    views = {
        id(threading): _core.ModuleView(
            threading, {"Thread": (originals.SystemThread, SystemThread)}
        ),
        id(_thread): _core.ModuleView(
            _thread, {"start_new_thread": (start, originals.start_new_thread)}
        ),
    }
    for key, value in list(vars(module).items()):
        if id(value) in views:
            setattr(module, key, views[id(value)])
        elif value is originals.SystemThread and not key.startswith("__"):
            setattr(module, key, SystemThread)
        elif value is start:
            setattr(module, key, originals.start_new_thread)
    for path in WAIT_IN_C.get(module.__name__, ()):
        owner_name, name = path.split(".")
        owner: Any = getattr(module, owner_name, None)
        if hasattr(owner, name) and not isinstance(getattr(owner, name), _core.PatchedMethod):
            setattr(owner, name, _in_a_real_thread(getattr(owner, name), path, module.__name__))


def _in_a_real_thread(original: Callable[..., Any], path: str, module: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return _core.offload(original, *args, **kwargs)

    return _core.PatchedMethod(original, call, original.__name__, path, module)


def prepare_loaded() -> None:
    """`prepare` for what was imported before."""
    loaded: list[tuple[str, Any]] = list(sys.modules.items())
    for name, module in loaded:
        # Anything may stand there.
        if belongs(name) and isinstance(module, ModuleType):
            prepare(module)
