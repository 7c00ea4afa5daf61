"""`concurrent.futures`: its pools' threads, and their end.

The workers of a `ThreadPoolExecutor` are green if the task that submits starts them. They are not
daemons, and wait for work for as long as the executor lives; so whoever waits for their end tells
them to go first, as the interpreter does when it ends. The thread that manages a
`ProcessPoolExecutor` is real, for the reasons that `multiprocessing` has.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .. import _core, _run
from .._imports import when_imported
from . import patcher
from . import threading as patched_threading
from .multiprocessing import natively

#: All executors with threads.
_executors: weakref.WeakSet[Any] = weakref.WeakSet()
#: Those whose workers were told to end because the program does.
_ending: list[Any] = []
#: The programs whose main function has ended, with threads that go on: they get no new workers.
_ending_programs: list[_core.Children] = []


def _end_workers(children: _core.Children) -> None:
    """The main function has ended: like those of a program, workers do what is left and end."""
    _ending_programs.append(children)
    for executor in list(_executors):
        if executor._shutdown:
            continue
        tasks = [patched_threading._task_of(thread) for thread in list(executor._threads)]
        workers = [task for task in tasks if isinstance(task, _core.Task) and task in children]
        for worker in workers:
            # Those of a pool that a daemon uses are daemons, but no program ends without them.
            children.wait_for_daemon(worker)
        if workers:
            executor.shutdown(wait=False)
            _ending.append(executor)


def _revive(children: _core.Children, abandoned: bool) -> None:
    """An executor can be used again: by the next run, or by real threads."""
    if children in _ending_programs:
        _ending_programs.remove(children)
    for executor in _ending[:]:
        if any(thread.is_alive() for thread in executor._threads):
            continue
        _ending.remove(executor)
        with executor._shutdown_lock:
            executor._threads.clear()
            executor._idle_semaphore = threading.Semaphore(0)
            left = [executor._work_queue.get_nowait() for _ in range(executor._work_queue.qsize())]
            for work in left:
                if work is not None:  # a worker was cancelled
                    executor._work_queue.put(work)
            executor._shutdown = False


def _patch_thread(module: Any) -> None:
    kind = module.ThreadPoolExecutor
    original = kind.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _executors.add(self)

    submit = kind.submit

    def submit_in_task(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if _ending_programs and not (self._broken or self._shutdown):
            # As when the interpreter ends: nobody would tell the worker to go.
            task = _core.current_task()
            if task is not None and any(task in children for children in _ending_programs):
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        return submit(self, fn, *args, **kwargs)

    shutdown = kind.shutdown

    def shutdown_in_task(self: Any, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            # Workers that were started have begun to work: that is when a real thread's `start`
            # returns, and a green one's before.
            _core.checkpoint()
        shutdown(self, wait, cancel_futures=cancel_futures)

    patcher.always(kind, "__init__", __init__)
    patcher.method(kind, "submit", submit_in_task)
    patcher.method(kind, "shutdown", shutdown_in_task)
    _executors.update(found for found in gc.get_objects() if isinstance(found, kind))


def _patch_process(module: Any) -> None:
    kind = module._ExecutorManagerThread
    kind.start = patched_threading.SystemThread.start
    executor = module.ProcessPoolExecutor
    spawn = natively(executor._spawn_process, forks=True)
    patcher.method(executor, "_spawn_process", spawn)


def patch() -> None:
    _run.before_threads_end.append(_end_workers)
    _run.after_threads_end.append(_revive)
    when_imported("concurrent.futures.thread", _patch_thread)
    when_imported("concurrent.futures.process", _patch_process)
