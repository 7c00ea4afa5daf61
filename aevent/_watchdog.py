"""Tells who holds up a loop: `setup(warn_blocking=…)`.

An OS thread asks now and then how long ago each loop last looked for events. If that is longer ago
than the threshold and the loop is not just waiting for some, somebody holds it up: the thread notes
who runs and where, waits until it is over, and reports it. It looks without the interpreter, and
takes it when something seems to be wrong: a loop pays next to nothing for being watched.

Of a host's loop it is not known when it looks. At times when it does not wait for events it is
asked to have our scheduler look, and is held up for as long as it does not.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from . import _core
from ._backend import HostBackend
from ._exceptions import AeventError
from ._monkey import originals
from ._tasks import task_name

_start_new_thread: Callable[..., int] = originals.saved["_thread"]["start_new_thread"]
_allocate_lock: Callable[[], Any] = originals.saved["_thread"]["allocate_lock"]
_now: Callable[[], float] = originals.saved["time"]["monotonic"]

_log = logging.getLogger("aevent.blocking")

#: How often a loop is looked at in the time that it may be held up.
LOOKS = 4

#: What the clock of the last look is exact to.
CLOCK_STEP = 0.01

#: One that lasts longer is reported before it is over: it may never be.
TOO_LONG = 30.0


@dataclass(frozen=True)
class Blocking:
    """A loop was held up: by whom, where, and for how long.

    `task` is the task's name. `kind` is "green", "coroutine" or "host", or `None` for a callback of
    the host's. `seconds` is how long, `stack` where, the innermost call last. `afterwards` says
    that the stack was taken when it was over, `goes_on` that it was not over yet. `str()` of it is
    what is logged.
    """

    #: The name of the task, or what else is known of it.
    task: str
    #: "green", "coroutine" or "host", as `_core.task_kind()`; `None` for a host's callback.
    kind: str | None
    #: From the beginning, which is known to a quarter of the threshold, to the end.
    seconds: float
    #: Where it was, innermost call last.
    stack: traceback.StackSummary
    #: The stack was taken when it was over: no other thread could run meanwhile.
    afterwards: bool
    #: It was not over when it was reported.
    goes_on: bool

    def __str__(self) -> str:
        kinds = {"green": "green thread", "coroutine": "task", "host": "task of the host"}
        who = f"{kinds[self.kind]} {self.task!r}" if self.kind else self.task
        held = (
            f"has been held up for {self.seconds:.3f} s"
            if self.goes_on
            else (f"was held up for {self.seconds:.3f} s")
        )
        hint = (
            " by a call into C that kept the interpreter to itself, just before"
            if self.afterwards
            else ""
        )
        where = "".join(self.stack.format()).rstrip()
        return f"the loop {held} by the {who}{hint}:\n{where}"


#: Seconds, or `None`: nobody is watched.
_threshold: float | None = None
_callbacks: list[Callable[[Blocking], object]] = []
_watched: list[_Watched] = []
#: Held while it is decided whether there is to be a thread.
_starting = _allocate_lock()
_is_running = False


class _Watched:
    """One loop, and what is known of it."""

    def __init__(self, host: HostBackend | None) -> None:
        self.host = host
        self.watch = _core.LoopWatch(is_hosted=host is not None)
        self.thread = originals.get_ident()
        #: Who holds it up.
        self.stall: _Stall | None = None
        #: When that was over, if it was found out afterwards.
        self.ended = 0.0

    def held(self, now: float) -> float:
        """For how long it has been held up."""
        held = self.watch.held()
        if self.host is None or held == 0.0:
            return held
        if not self.watch.is_asked():
            if self.host.is_waiting(self.frame()):
                self.watch.set_at_rest()
                return 0.0
            self.watch.ask()
        return min(held, self.watch.unanswered())

    def frame(self) -> FrameType | None:
        """What its thread runs."""
        return sys._current_frames().get(self.thread)


class _Stall:
    """Somebody holds up a loop."""

    def __init__(self, watched: _Watched, began: float, afterwards: bool) -> None:
        self.began = began
        self.afterwards = afterwards
        self.reported = False
        frame = watched.frame()
        running: Any = watched.watch.running_task()
        task = running
        if watched.host is not None and (running is None or running.kind == "host"):
            task = watched.host.task_in(frame) or running
        self.kind: str | None = None if task is None else task.kind
        self.is_traced = False
        frames = []
        while frame is not None and not (watched.host and watched.host.is_below_tasks(frame)):
            self.is_traced |= frame.f_trace is not None
            frames.append((frame, frame.f_lineno))
            frame = frame.f_back
        # What is ours around the task is of no interest.
        while len(frames) > 1 and _is_ours(frames[-1][0]):
            frames.pop()
        frames.reverse()
        self.stack = traceback.StackSummary.extract(iter(frames))
        if task is None:
            self.task = "event loop itself"
        elif task is running and task.kind == "host" and frames:
            # A host's task that cannot be told from here: what it runs.
            self.task = _name_of_frame(frames[0][0])
        else:
            self.task = task_name(task)
        del frame, frames, task, running

    def report(self, now: float, goes_on: bool) -> None:
        self.reported = True
        if self.is_traced:
            # Somebody looks at it with a debugger.
            return
        blocking = Blocking(
            self.task, self.kind, now - self.began, self.stack, self.afterwards, goes_on
        )
        known: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
        here = originals.get_ident()
        was_known = here in known
        _log.warning("%s", blocking)
        if not was_known:
            # The log has made something that stands for this thread, of which nobody need know.
            known.pop(here, None)
        for callback in list(_callbacks):
            try:
                callback(blocking)
            except Exception as error:
                _core.print_exception(error)


def _is_ours(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__") or ""
    return name == "aevent" or name.startswith("aevent.")


def _name_of_frame(frame: FrameType) -> str:
    # In full since Python 3.11 only.
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return f"{frame.f_globals.get('__name__')}.{name}"


def set_threshold(seconds: float | None) -> None:
    """From now on loops are watched for being held up longer than that; `None`: not at all."""
    global _threshold
    _threshold = seconds
    _change()


def threshold_from(warn_blocking: float | None) -> float | None:
    """What `setup` was given, or the environment has; `None` for zero."""
    value: Any = warn_blocking
    if value is None:
        text = os.environ.get("AEVENT_WARN_BLOCKING", "")
        try:
            value = float(text or 0)
        except ValueError:
            raise AeventError(
                f"AEVENT_WARN_BLOCKING is {text!r}: it must be a number of seconds, such as 0.1"
            ) from None
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise AeventError(f"warn_blocking must be a number of seconds, such as 0.1, not {value!r}")
    return float(value) or None


def on_blocking(callback: Callable[[Blocking], object]) -> Callable[[], None]:
    """Has `callback(blocking)` called for whatever holds up a loop; returns what ends that.

    Takes `setup(warn_blocking=…)` to be told. It is called in an OS thread of its own when the loop
    goes on, once for each time it was held up; beside that, it is logged as a warning of the logger
    "aevent.blocking". What it raises is printed. `blocking` has `task`, `kind`, `seconds`, `stack`
    (a `traceback.StackSummary`), `afterwards` and `goes_on`; as a string it is what is logged.
    """
    _callbacks.append(callback)

    def end() -> None:
        if callback in _callbacks:
            _callbacks.remove(callback)

    return end


@contextmanager
def watched(host: HostBackend | None) -> Iterator[None]:
    """The calling OS thread's loop is driven in the body, by itself or by `host`."""
    one = _Watched(host)
    _watched.append(one)
    _change()
    try:
        yield
    finally:
        if one in _watched:
            _watched.remove(one)
        one.watch.end()
        _core.watches_changed()


def _change() -> None:
    """The thread learns of what is new, and is started if there is something for it to do."""
    global _is_running
    _core.watches_changed()
    with _starting:
        if _threshold is None or not _watched:
            return
        if not _is_running:
            _is_running = True
            _start_new_thread(_run, ())


def is_running() -> bool:
    """Whether there is an OS thread that watches."""
    return _is_running


def _run() -> None:
    """The life of the watchdog: until there is nothing to watch."""
    global _is_running
    while True:
        with _starting:
            threshold = _threshold
            if threshold is None or not _watched:
                _is_running = False
                return
        watched = list(_watched)
        late = _core.wait_until_held_up(
            [one.watch for one in watched],
            max(threshold / LOOKS, 0.001),
            any(one.stall is not None for one in watched),
        )
        now = _now()
        for one in list(_watched):
            try:
                _look_at(one, now, threshold, late)
            except Exception as error:
                _core.print_exception(error)
        del watched


def _look_at(one: _Watched, now: float, threshold: float, late: float) -> None:
    stall = one.stall
    if stall is None and one.host is not None and late > threshold:
        # It could not be asked. What it runs is looked at before it is: that gives the interpreter
        # away, and the loop goes on.
        held = min(late, one.watch.held())
        if held >= threshold and not one.host.is_waiting(one.frame()):
            one.stall = _Stall(one, now - held, True)
            one.ended = now
            return
    held = one.held(now)
    if stall is not None:
        if held > 0 and now - held < stall.began + CLOCK_STEP:
            if not stall.reported and now - stall.began > TOO_LONG:
                stall.report(now, True)
            return
        one.stall = None
        if not stall.reported:
            # A host that waits by now has looked when it was over.
            stall.report(max(one.ended, now - one.watch.held(), stall.began), False)
    if held >= threshold:
        one.stall = _Stall(one, now - held, late > threshold)


def _after_fork_in_child() -> None:
    global _is_running, _starting
    _is_running = False
    _starting = _allocate_lock()
    # Its loop is another one from now on, which is not watched before it is run anew.
    _watched.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
