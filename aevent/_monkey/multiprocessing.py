"""`multiprocessing`: what it does itself waits through patched modules; here is the rest.

The threads that feed its queues, hand out descriptors and run its pools of processes are real. They
are no threads of the program's, and outlive the end of a run: they are ended when the interpreter
is. Their processes are what they are without aevent, too. A `ThreadPool` has green threads only.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import _core, _run
from .._imports import when_imported
from . import originals, patcher
from . import threading as patched_threading

#: Locks that a fork takes, by hooks of modules, and that a green thread may hold while it waits.
_LOCKS_OF_A_FORK = (("concurrent.futures.thread", "_global_shutdown_lock"), ("logging", "_lock"))


def _held_by_another() -> Any:
    """Such a lock that the running thread could not have at once."""
    for module, name in _LOCKS_OF_A_FORK:
        lock = getattr(sys.modules.get(module), name, None)
        if lock is not None:
            if not lock.acquire(blocking=False):
                return lock
            lock.release()
    return None


def _enter_to_fork() -> bool:
    """As `adjust_native(1)`. While nothing cooperates, the hooks could not wait for anybody."""
    while True:
        entered: bool = _core.adjust_native(1)
        if not entered or (lock := _held_by_another()) is None:
            return entered
        _core.adjust_native(-1)
        with lock:
            pass


def natively(original: Callable[..., Any], *, forks: bool = False) -> Callable[..., Any]:
    """`original`, not cooperating: threads that it starts are real, processes are plain ones."""

    def call(*args: Any, **kwargs: Any) -> Any:
        entered = _enter_to_fork() if forks else _core.adjust_native(1)
        try:
            return original(*args, **kwargs)
        finally:
            if entered:
                _core.adjust_native(-1)

    return call


def shielded(original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, not cancelled: it ends processes, only once, and waits for nobody else."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not _core.in_task():
            return original(*args, **kwargs)
        with _core.CancelScope(shield=True):
            return original(*args, **kwargs)

    return call


def _patch_connection(module: Any) -> None:
    # They have taken `os.read` and `os.write` for defaults of arguments.
    for name, function in (("_send", os.write), ("_recv", os.read)):
        method = getattr(module.Connection, name)
        if len(method.__defaults__ or ()) == 1:
            method.__defaults__ = (function,)


def _patch_queues(module: Any) -> None:
    kind = module.Queue
    patcher.method(kind, "_start_thread", natively(kind._start_thread))


def _patch_resource_sharer(module: Any) -> None:
    # Its thread hands descriptors out to other processes, and blocks all signals for itself.
    kind = module._ResourceSharer
    patcher.method(kind, "_start", natively(kind._start))


#: The pools of threads that may have green ones.
_thread_pools: weakref.WeakSet[Any] = weakref.WeakSet()


def _patch_pool(module: Any) -> None:
    kind = module.Pool
    original = kind.__init__
    init_natively = natively(original, forks=True)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(self, module.ThreadPool):
            original(self, *args, **kwargs)
            _thread_pools.add(self)
        else:
            init_natively(self, *args, **kwargs)

    __init__.__wrapped__ = original  # type: ignore[attr-defined]
    patcher.method(kind, "__init__", __init__)
    patcher.method(kind, "terminate", shielded(kind.terminate))

    def end_thread_pools(children: _core.Children, abandoned: bool) -> None:
        """What has lost its threads is not to be ended again when the interpreter is."""
        for pool in list(_thread_pools):
            is_green = patched_threading._task_of(pool._worker_handler) is not None
            if not pool._worker_handler.is_alive() or (is_green and abandoned):
                pool._state = module.TERMINATE
                pool._terminate.cancel()
                _thread_pools.discard(pool)

    _run.after_threads_end.append(end_thread_pools)


def _patch_managers(module: Any) -> None:
    kind = module.BaseManager
    patcher.method(kind, "__exit__", shielded(kind.__exit__))


def _patch_util(module: Any) -> None:
    # Whatever it ends is ended by real threads, or by nobody: there is no need for a task.
    atexit.unregister(module._exit_function)
    originals.saved["atexit"]["register"](module._exit_function)


def _patch_synchronize(module: ModuleType) -> None:
    from . import _multiprocessing  # it takes the class that it replaces when it is loaded

    _multiprocessing.patch()


def _shutdown() -> None:
    """The end of a process that was forked in a task."""
    me = threading.current_thread()
    while True:
        threads = [
            thread
            for thread in threading.enumerate()
            if patched_threading._task_of(thread) and not thread.daemon and thread is not me
        ]
        if not threads:
            break
        for thread in threads:
            thread.join()
    originals.saved["threading"]["_shutdown"]()


def patch() -> None:
    patcher.function(threading, "_shutdown", _shutdown)
    when_imported("multiprocessing.util", _patch_util)
    when_imported("multiprocessing.synchronize", _patch_synchronize)
    when_imported("multiprocessing.connection", _patch_connection)
    when_imported("multiprocessing.queues", _patch_queues)
    when_imported("multiprocessing.resource_sharer", _patch_resource_sharer)
    when_imported("multiprocessing.pool", _patch_pool)
    when_imported("multiprocessing.managers", _patch_managers)
