"""`threading`: threads that are green when they are started in a task.

`Thread` stays the class it is; its methods decide. A thread is green from its `start()` on, for
good, and so are `join()`, `ident` and the rest for whoever asks. What the module keeps to itself is
used only as far as tests/project/test_private_names.py lists it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from .. import _core, _run
from . import originals, patcher
from ._thread import get_ident
from .sys import setprofile, settrace

_Thread = originals.SystemThread
_orig: dict[str, Any] = {}


class SystemThread(_Thread):
    """A thread of the operating system, whoever starts it: `Thread._aevent_orig`."""

    def start(self) -> None:
        entered = _core.adjust_native(1)
        try:
            _orig["start"](self)
        finally:
            if entered:
                _core.adjust_native(-1)


# As the original calls itself.
SystemThread.__name__ = SystemThread.__qualname__ = "Thread"
SystemThread.__module__ = "threading"


class _GreenDummy(threading._DummyThread):
    """Stands for a green thread that was not started as a `Thread`."""

    def __init__(self, task: _core.Task) -> None:
        name = task.name if isinstance(task.name, str) else f"Dummy-{task.ident:x}"
        _Thread.__init__(self, name=name, daemon=True)
        self._aevent_task = task
        self._ident = task.ident
        self._native_id = threading.get_native_id()
        self._started.set()  # type: ignore[attr-defined]
        _active[task.ident] = self

    def is_alive(self) -> bool:
        return self._aevent_task.is_alive()


# It is one to whoever prints it.
_GreenDummy.__name__ = _GreenDummy.__qualname__ = "_DummyThread"


def _task_of(thread: threading.Thread) -> _core.Task | None:
    task: _core.Task | None = thread.__dict__.get("_aevent_task")
    return task


#: The packages that are the hosts, and what they are made of.
HOSTS = frozenset({"asyncio", "trio", "anyio", "outcome", "sniffio", "uvloop"})

#: Packages whose own threads stay real, whoever starts them: the hosts, and those that wait in C on
#: threads of their own. `setup(real_threads=…)` adds to them.
REAL_THREADS = {*HOSTS, "grpc"}


def start(self: threading.Thread) -> None:
    kind = type(self)
    if kind is not _Thread and kind.__module__.partition(".")[0] in REAL_THREADS:
        SystemThread.start(self)  # type: ignore[arg-type]
        return
    if not self._initialized:  # type: ignore[attr-defined]
        raise RuntimeError("thread.__init__() not called")
    if self._started.is_set():  # type: ignore[attr-defined]
        raise RuntimeError("threads can only be started once")
    context = getattr(self, "_context", None)
    if context is None and getattr(sys.flags, "thread_inherit_context", False):
        import contextvars  # 3.14 and later only

        context = contextvars.copy_context()
    task = _core.start_thread(self, bool(self.daemon), _traced(self), context)
    self._aevent_task = task  # type: ignore[attr-defined]
    self._ident = task.ident  # type: ignore[attr-defined]
    self._native_id = threading.get_native_id()  # type: ignore[attr-defined]
    _active[task.ident] = self
    self._started.set()  # type: ignore[attr-defined]


#: The threads that have begun and have not ended, by identifier: the module's own, which debuggers
#: and profilers look into. A green thread is in it from its start; its end takes it out.
_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]


def _traced(thread: threading.Thread) -> Callable[[], None] | None:
    """What the thread runs instead of its `run()` if `threading.settrace` was called, else None."""
    trace, profile = _orig["gettrace"](), _orig["getprofile"]()
    if trace is None and profile is None:
        return None

    def run() -> None:
        # They end with the thread, which has them for itself.
        if trace is not None:
            settrace(trace)
        if profile is not None:
            setprofile(profile)
        try:
            thread.run()
        except _core.Cancelled:
            pass
        except BaseException as error:
            _report(thread, error)

    return run


def settrace_all_threads(func: Any) -> None:
    _core.settrace_all_threads(func, _orig["settrace_all_threads"])


def setprofile_all_threads(func: Any) -> None:
    _core.setprofile_all_threads(func, _orig["setprofile_all_threads"])


def _report(thread: threading.Thread, error: BaseException) -> None:
    """Gives the exception that ended a thread to `threading.excepthook`."""
    # The hook reads what is being handled.
    _core.call_handling(error, thread._invoke_excepthook, thread)  # type: ignore[attr-defined]


def join(self: threading.Thread, timeout: float | None = None) -> None:
    task = self.__dict__.get("_aevent_task")
    if task is None:
        return _orig["join"](self, timeout)  # type: ignore[no-any-return]
    if task.ident == _core.thread_ident():
        raise RuntimeError("cannot join current thread")
    task.join(None if timeout is None else max(timeout, 0))


def _join_system_thread(self: threading.Thread, timeout: float | None = None) -> None:
    """Joining a real thread from a task: the wait is done by another real thread."""
    if self is threading.current_thread() or not self.is_alive():
        return _orig["join"](self, timeout)  # type: ignore[no-any-return]
    _core.offload(_orig["join"], self, timeout)


def _main_over(thread: threading.Thread) -> _core.Event | None:
    """If it is the main thread, as a green thread of its program sees it: what tells its end."""
    if thread is _orig["main_thread"]() and _core.thread_ident() is not None:
        return _run.main_over
    return None


def join_in_task(self: threading.Thread, timeout: float | None = None) -> None:
    if not self._initialized:  # type: ignore[attr-defined]
        raise RuntimeError("Thread.__init__() not called")
    over = _main_over(self)
    if over is not None:
        over.wait(None if timeout is None else max(timeout, 0))
    elif self.__dict__.get("_aevent_task") is not None or not self._started.is_set():  # type: ignore[attr-defined]
        join(self, timeout)
    else:
        _join_system_thread(self, timeout)


def is_alive(self: threading.Thread) -> bool:
    task = _task_of(self)
    if task is None:
        over = _main_over(self)
        if over is not None:
            return not over.is_set()
        alive: bool = _orig["is_alive"](self)
        return alive
    return task.is_alive()


def is_green(ident: int) -> bool:
    """Whether this is the identifier of a green thread that is alive."""
    thread = _active.get(ident)
    return thread is not None and _task_of(thread) is not None


def _describe(self: threading.Thread) -> str:
    task = _task_of(self)
    if task is None:
        text: str = _orig["__repr__"](self)
        return text
    status = "started" if task.is_alive() else "stopped"
    if self.daemon:
        status += " daemon"
    return f"<{type(self).__name__}({self.name}, {status} {task.ident})>"


def current_thread() -> threading.Thread:
    """The green thread's `Thread` object; made up for one that has none."""
    thread = _core.current_thread()
    if thread is not None:
        return thread
    if _core.thread_ident() is None:
        main: threading.Thread = _orig["main_thread"]()
        if _survivor is not None and originals.get_ident() == main.ident:
            return main_thread()  # the program's end, in a process that a green thread forked
        system: threading.Thread = _orig["current_thread"]()
        return system
    task = _core.current_task()
    assert task is not None
    dummy = _GreenDummy(task)
    task.thread = dummy
    return dummy


def _deprecated(name: str, new: str, function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        import warnings  # only for the deprecated names

        warnings.warn(
            f"{name}() is deprecated, use {new}() instead", DeprecationWarning, stacklevel=2
        )
        return function()

    call.__name__ = call.__qualname__ = name
    return call


#: What `_active` was before a fork: the module's own hook empties it in the child.
_at_fork: dict[int, threading.Thread] = {}

#: Who forks: the process, and the identifier of the green thread, if it is one.
_forking: tuple[int, int | None] | None = None

#: In a process that a green thread has forked: its identifier. It is the main thread there.
_survivor: int | None = None
_survivor_thread: threading.Thread | None = None


def before_fork() -> None:
    global _forking
    _forking = os.getpid(), _core.thread_ident()
    _at_fork.update(_active)


def after_fork_in_parent() -> None:
    global _forking
    _forking = None
    _at_fork.clear()


def is_main() -> bool:
    """Whether the caller is in the main thread, if it is in a task; else true."""
    me = _core.thread_ident()
    if me is None or me == _survivor:
        return True
    # A hook of somebody else's, such as asyncio's, may ask before ours has run in the child.
    return _forking is not None and _forking[1] == me and _forking[0] != os.getpid()


def main_thread() -> threading.Thread:
    """The main thread. In a process that a green thread has forked, that thread."""
    global _survivor_thread
    if _survivor is not None and _survivor_thread is None:
        # It was started as a bare thread, and nobody has asked for its object.
        _survivor_thread = _active.get(_survivor)
        if _survivor_thread is None and _core.thread_ident() == _survivor:
            _survivor_thread = current_thread()
    if _survivor_thread is not None:
        return _survivor_thread
    thread: threading.Thread = _orig["main_thread"]()
    return thread


def after_fork_in_child() -> None:
    """Of the green threads only the one that forked is alive."""
    global _forking, _survivor, _survivor_thread
    _forking = None
    me = _core.thread_ident()
    if me is not None and me != _survivor:
        _survivor, _survivor_thread = me, _at_fork.get(me)
        _active.pop(originals.get_ident(), None)
        _run.main_over = _core.Event()
        _run.main_over.set()
    for ident, thread in _at_fork.items():
        if _task_of(thread) is None:
            continue
        if ident == me:
            _active[ident] = thread
        else:
            thread._aevent_task = _Ended(ident)  # type: ignore[attr-defined]
    _at_fork.clear()


class _Ended:
    """Stands for the task of a thread that was left behind in the parent of a fork."""

    __slots__ = ("ident",)

    def __init__(self, ident: int) -> None:
        self.ident = ident

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float | None = None) -> bool:
        return True


def patch() -> None:
    _core.set_thread_hooks(_Thread.run, _report, _active)
    for name in ("start", "join", "is_alive", "__repr__"):
        _orig[name] = getattr(_Thread, name)
    for name in ("current_thread", "main_thread", "gettrace", "getprofile"):
        _orig[name] = getattr(threading, name)
    # The original classes make their locks by these; a `Condition` or a `Queue` of before then
    # waits in the task that asks, like later ones.
    patcher.hybrid(threading, "_allocate_lock", _core.Lock)
    patcher.hybrid(threading, "_CRLock", _core.RLock)
    patcher.method(_Thread, "start", start)
    # join() and is_alive() look at the thread, not only at the caller: a real thread may join a
    # green one.
    pair = _core.PatchedMethod(join, join_in_task, "join", "Thread.join", "threading")
    patcher.always(_Thread, "join", pair)
    patcher.always(_Thread, "is_alive", is_alive)
    patcher.always(_Thread, "__repr__", _describe)
    _Thread._aevent_orig = SystemThread  # type: ignore[attr-defined]
    _Thread._aevent_new = _Thread  # type: ignore[attr-defined]
    _Thread._aevent_select = staticmethod(  # type: ignore[attr-defined]
        lambda: _Thread if _core.in_task() else SystemThread
    )

    for name, kind in (
        ("Lock", _core.Lock),
        ("RLock", _core.RLock),
        ("Condition", _core.Condition),
        ("Event", _core.Event),
        ("Semaphore", _core.Semaphore),
        ("BoundedSemaphore", _core.BoundedSemaphore),
        ("local", _core.local),
    ):
        patcher.hybrid(threading, name, kind)
    patcher.function(threading, "get_ident", get_ident)
    patcher.always(threading, "current_thread", current_thread)
    patcher.always(threading, "main_thread", main_thread)
    if hasattr(threading, "settrace_all_threads"):
        for name in ("settrace_all_threads", "setprofile_all_threads"):
            _orig[name] = getattr(threading, name)
        patcher.always(threading, "settrace_all_threads", settrace_all_threads)
        patcher.always(threading, "setprofile_all_threads", setprofile_all_threads)
    if hasattr(threading, "currentThread"):
        deprecated = _deprecated("currentThread", "current_thread", current_thread)
        patcher.always(threading, "currentThread", deprecated)
