"""The hosts keep the originals: their modules' names stand for what they did before."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .. import _core
from . import originals, patcher, signal
from .threading import SYSTEM_PACKAGES, _SystemThread

_done: set[str] = set()


def belongs(name: str) -> bool:
    """Whether the module is a host's."""
    return name.partition(".")[0] in SYSTEM_PACKAGES


def keep_originals() -> None:
    """Gives the originals to those modules of hosts that are loaded and have not got them yet."""
    stands_for: dict[int, Any] = patcher.originals_of()
    stands_for[id(originals.SystemThread)] = _SystemThread
    # `threading.RLock` is a factory that asks the module for the class, which is patched by now.
    stands_for[id(_core.RLock)] = originals.system_rlock
    for name, module in list(sys.modules.items()):
        if name in _done or not belongs(name) or not isinstance(module, ModuleType):
            continue
        _done.add(name)
        for key, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value.__name__ in originals.saved:
                setattr(module, key, originals.module(value.__name__))
            elif id(value) in stands_for and not key.startswith("__"):
                setattr(module, key, stands_for[id(value)])
    originals.module("threading", Thread=_SystemThread, RLock=originals.system_rlock)
    originals.module("signal", **signal.FOR_HOSTS)
    base = sys.modules.get("asyncio.base_events")
    if base is not None:
        _keep_executor(base.BaseEventLoop)


def _keep_executor(kind: Any) -> None:
    """asyncio's executors start real threads, also when a task with a portal asks for one."""
    original = kind.run_in_executor
    if hasattr(original, "_aevent_native"):
        return

    def run_in_executor(self: Any, executor: Any, func: Any, *args: Any) -> Any:
        entered = _core.adjust_native(1)
        try:
            return original(self, executor, func, *args)
        finally:
            if entered:
                _core.adjust_native(-1)

    run_in_executor._aevent_native = True  # type: ignore[attr-defined]
    run_in_executor.__doc__ = original.__doc__
    kind.run_in_executor = run_in_executor
