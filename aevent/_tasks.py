"""What can be asked about tasks."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _core
from ._backend import HostBackend, HostTask
from ._exceptions import AeventError


def current_task() -> _core.Task | HostTask:
    """The running task: one of ours, green threads among them, or what is known of a host's.

    Both have `name`, `kind`, `coro`, `context` and `parent`. `RuntimeError` outside a task.
    """
    task = _core.current_task()
    if task is not None and task.kind != "host":
        return task
    host = _core.get_host()
    if isinstance(host, HostBackend):
        host_task = host.current_task()
        if host_task is not None:
            return host_task
    if task is not None:
        return task
    raise AeventError("aevent.lowlevel.current_task() was called outside a task")


def current_root_task() -> _core.Task | HostTask | None:
    """The task that the others descend from: the program's main task; on trio, trio's root task.

    `None` if this OS thread runs no loop. On asyncio, which does not know, the running task.
    """
    task = _core.main_task()
    if task is not None:
        return task
    host = _core.get_host()
    host_task = host.current_task() if isinstance(host, HostBackend) else None
    while host_task is not None and host_task.parent is not None:
        host_task = host_task.parent
    return host_task


def task_name(task: _core.Task | HostTask) -> str:
    """How to call a task: the name that it was given, or that of what it runs."""
    name = task.name
    if isinstance(name, str):
        return name
    if isinstance(task, _core.Task):
        thread: threading.Thread | None = task.thread
        if thread is not None:
            return thread.name
    described: Any = task.coro if name is None else name
    return function_name(described) if described is not None else "?"


def function_name(fn: Callable[..., Any]) -> str:
    """What a function or a coroutine is called, with its module."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "coroutine", fn)
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    module = getattr(fn, "__module__", None)
    if module is None:
        frame = getattr(fn, "cr_frame", None)
        module = None if frame is None else frame.f_globals.get("__name__")
    return f"{module}.{name}" if module else str(name)


@dataclass(frozen=True)
class RunStatistics:
    """What `current_statistics()` tells about the loop of this OS thread."""

    backend: str
    #: Tasks of ours that could run now; timers that are set; stacks, idle ones among them.
    tasks_ready: int
    timers: int
    stacks: int
    #: Seconds until the next timer, infinite without one.
    seconds_to_next_deadline: float


def current_statistics() -> RunStatistics:
    """Figures about the loop of this OS thread. `RuntimeError` if it runs none."""
    driver = _core.driver()
    if driver is None:
        raise AeventError("aevent.lowlevel.current_statistics() was called where no loop runs")
    host = _core.get_host()
    figures = _core.statistics()
    deadline = figures["next_deadline"]
    left = math.inf if deadline == math.inf else max(0.0, deadline - _core.current_time())
    name = host.name if isinstance(host, HostBackend) else "native"
    return RunStatistics(
        name, int(figures["ready"]), int(figures["timers"]), int(figures["stacks"]), left
    )
