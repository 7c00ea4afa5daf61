"""`importlib`: the import lock, which keeps the green threads of an OS thread apart as well.

Under it the import system finds the lock of a module or makes one, and `imp.acquire_lock()` gave it
to programs. It is the OS thread's: to the interpreter, all green threads of one are the same. So a
task takes a lock of ours first. The locks of the modules themselves are made of `_thread`'s, which
are patched; so two green threads can import the same module while that waits for something. Who has
one is told by the task, not by the thread: coroutines have their thread's identity, and the second
of two that import a module would be given the half of it that there is.

A host's own code, and its tasks without a portal, cannot park. When they need a lock that a green
thread has, they have the green threads run until it is free.

A fork waits until nobody else holds the lock, and its child has it free, as in the interpreter.
"""

from __future__ import annotations

import _imp  # the names that the import system itself uses; `imp` has ended with Python 3.11
import _thread
import importlib
import os
from typing import Any

from .. import _core
from .._backend import HostBackend
from . import patcher

_lock = _core.RLock()
_acquire, _release = _imp.acquire_lock, _imp.release_lock


def _take(lock: _core.Lock | _core.RLock) -> bool:
    """Acquires a lock that a green thread of the same OS thread may hold.

    False: nobody could give it up where this is called.
    """
    if _core.in_task():
        return lock.acquire()
    if lock.acquire(False):
        return True
    depth = _core.replace_native(0)
    if depth is not None:
        # Under `native()`. Who holds it must run, all the same.
        try:
            return lock.acquire()
        finally:
            _core.replace_native(depth)
    host = _core.get_host()
    if not isinstance(host, HostBackend):
        return lock.acquire()
    return host.run_others_until(lambda seconds: lock.acquire(True, seconds))


class _LockForAll:
    """What the locks of modules are made of."""

    __slots__ = ("_lock",)

    def __init__(self, lock: _core.Lock | _core.RLock) -> None:
        self._lock = lock

    def acquire(self, blocking: bool = True) -> bool:
        if not blocking:
            return self._lock.acquire(False)
        return _take(self._lock) or self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def acquire_lock() -> None:
    taken = (_core.in_task() or _core.driver() == "host") and _take(_lock)
    try:
        _acquire()
    except BaseException:
        if taken:
            _lock.release()
        raise


def release_lock() -> None:
    _release()
    # Asked of the lock, too: it may have been acquired before the loop had a driver. Where it is
    # not acquired, under `native()`, it is not released: who called that may have it.
    if (_core.in_task() or _core.driver() == "host") and _lock._is_owned():
        _lock.release()


class _Fork:
    """What a fork does with the lock. One at a time: the lock is held from beginning to end."""

    held = False

    def before(self) -> None:
        if _core.in_task():
            _lock.acquire()
            self.held = True

    def after_in_parent(self) -> None:
        if self.held:
            self.held = False
            _lock.release()

    def after_in_child(self) -> None:
        if self.held and _lock._is_owned():
            self.after_in_parent()
        else:
            # Whoever had it is left behind in the parent.
            self.held = False
            _lock._at_fork_reinit()


def _tell_tasks_apart() -> None:
    bootstrap: Any = importlib._bootstrap
    given = {
        "get_ident": (_thread.get_ident, _core.owner_ident),
        "allocate_lock": (_thread.allocate_lock, lambda: _LockForAll(_core.Lock())),
        "RLock": (_thread.RLock, lambda: _LockForAll(_core.RLock())),
    }
    bootstrap._thread = _core.ModuleView(_thread, given)


def patch() -> None:
    _tell_tasks_apart()
    patcher.always(_imp, "acquire_lock", acquire_lock)
    patcher.always(_imp, "release_lock", release_lock)
    fork = _Fork()
    os.register_at_fork(
        before=fork.before,
        after_in_parent=fork.after_in_parent,
        after_in_child=fork.after_in_child,
    )
