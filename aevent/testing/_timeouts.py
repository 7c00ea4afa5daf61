"""A time limit for what pytest has run in a task: it says who waits for what, and ends it.

A thread of the operating system's keeps the time, and sends a signal to the main one: so the end
comes also to code that computes, or holds up the loop.
"""

from __future__ import annotations

import _thread
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from .. import _core
from .._monkey import originals
from .._signals import in_main_os_thread
from .._tree import print_tree
from ._test_loop import Job, TestLoop

#: Seconds that a test has to end once it has been told to.
GRACE = 2.0

_pthread_kill: Callable[[int, int], None] = originals.saved["signal"]["pthread_kill"]
_signal: Callable[[int, Any], Any] = originals.saved["signal"]["signal"]
_getsignal: Callable[[int], Any] = originals.saved["signal"]["getsignal"]


class Timeout:
    """A context manager around a run of the loop, in which `job` is to end in `limit` seconds."""

    def __init__(self, limit: float, test: str, loop: TestLoop, job: Job) -> None:
        self._limit = limit
        self._test = test
        self._loop = loop
        self._job = job
        self._rings = 0
        self._over: Any = None
        #: Held where the signal is sent: not when nobody handles it any more, for then it would
        #: end the process.
        self._sending = originals.allocate_lock()
        self._is_over = False
        self._former: Any = None

    def __enter__(self) -> None:
        if not in_main_os_thread():
            raise pytest.UsageError("aevent_timeout: tests are run in the main thread only")
        self._number = _unused_signal()
        self._former = _signal(self._number, self._ring)
        self._over = originals.allocate_lock()
        self._over.acquire()
        originals.start_new_thread(self._watch, (originals.get_ident(), self._over))

    def __exit__(self, *error: object) -> None:
        self._job.done.set()
        self._over.release()
        with self._sending:
            self._is_over = True
        # One that has been sent meanwhile is handled before this changes anything.
        _signal(self._number, self._former)

    def _watch(self, main: int, over: _thread.LockType) -> None:
        for patience in (self._limit, GRACE, GRACE, GRACE):
            if over.acquire(timeout=patience):
                return
            with self._sending:
                if self._is_over:
                    return
                _pthread_kill(main, self._number)
        if over.acquire(timeout=GRACE):
            return
        os.write(2, f"\n{self._test} cannot be ended, and the run with it.\n".encode())
        faulthandler.dump_traceback(2, all_threads=True)
        os._exit(70)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._job.done.is_set():
            return
        self._rings += 1
        self._dump()
        error = pytest.fail.Exception(f"Timeout: more than {self._limit:g} seconds", pytrace=True)
        if self._rings < 3 and not self._job.closes:
            self._loop.end(self._job, error)
            if self._rings > 1 and _core.current_task() is not None:
                # Somebody else computes, and nobody else gets a turn.
                raise error
            return
        self._job.ended_by = error
        self._loop.abandon(self._job)
        if self._job.closes and _core.current_task() is not None:
            raise error

    def _dump(self) -> None:
        what = "hangs" if self._rings == 1 else "was told to end, and does not"
        print(f"\n{self._test} {what}. Tasks:", file=sys.stderr)
        print_tree()
        sys.stderr.flush()
        try:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        except (AttributeError, OSError, ValueError):
            pass  # no file


def _unused_signal() -> int:
    for number in sorted(signal.valid_signals(), reverse=True):
        if number >= getattr(signal, "SIGRTMIN", 0) and _getsignal(number) is signal.SIG_DFL:
            return int(number)
    raise pytest.UsageError("aevent_timeout: there is no signal that is not in use")
