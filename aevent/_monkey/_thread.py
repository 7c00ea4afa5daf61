"""`_thread`: starting bare threads, identity, locks, local data."""

from __future__ import annotations

import _thread

from .. import _core, _watchdog
from . import originals, patcher


def get_ident() -> int:
    """The identifier of the green thread, or of the OS thread outside one."""
    ident = _core.thread_ident()
    return originals.get_ident() if ident is None else ident


_original_count = _thread._count


def _count() -> int:
    """The threads that were started by the program and have not ended: green ones and real ones."""
    # The watchdog is nobody's business.
    return _original_count() + _core.thread_count() - _watchdog.is_running()


def patch() -> None:
    if not hasattr(_thread, "lock"):
        # Before 3.13 a function makes locks. What is pickled by this name is that function for a
        # process that is not patched.
        _core.Lock.__qualname__ = "allocate_lock"
    for name in ("start_new_thread", "start_new"):
        if hasattr(_thread, name):
            patcher.function(_thread, name, _core.start_new_thread)
    patcher.function(_thread, "get_ident", get_ident)
    patcher.always(_thread, "_count", _count)
    for name in ("allocate_lock", "allocate", "LockType", "lock"):
        if hasattr(_thread, name):
            patcher.hybrid(_thread, name, _core.Lock)
    patcher.hybrid(_thread, "RLock", _core.RLock)
    patcher.hybrid(_thread, "_local", _core.local)
