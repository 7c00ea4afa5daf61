"""`subprocess`: waiting for a child with a timeout, and cancellation.

All the rest follows from `os`, `io` and `selectors`, on which it stands: starting a child reads a
pipe until it has executed its program, its pipes are `io` objects, and `wait()` is `os.waitpid()`.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from .. import _core
from . import patcher

_init = subprocess.Popen.__init__
_wait = subprocess.Popen.wait
_exit = subprocess.Popen.__exit__
#: Seconds that a cancelled task gives its child to end; as many as the original after SIGINT.
_PATIENCE = 0.25


def __init__(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
    """Starts the child, and is cancelled before that or not at all.

    It waits until the child has executed its program. Given up in between, there would be a child
    that nobody knows.
    """
    _core.checkpoint_if_cancelled()
    with _core.CancelScope(shield=True):
        _init(self, *args, **kwargs)


def wait(self: subprocess.Popen[Any], timeout: float | None = None) -> int:
    """Waits for the child's end itself: the original would look every now and then."""
    if timeout is None or self.returncode is not None or timeout <= 0:
        return _wait(self, timeout)
    until = _core.current_time() + timeout
    # Whoever waits in another thread may have the status already, and is about to say so.
    if self.poll() is None:
        try:
            _core.wait_child(os.P_PID, self.pid, os.WEXITED, timeout)
        except OSError:
            pass
    # Short of the end of the time, somebody else has collected it, or it was no child.
    left = until - _core.current_time()
    if self.poll() is None and left <= 0:
        raise subprocess.TimeoutExpired(self.args, timeout)
    return _wait(self, max(left, 0.001))


def __exit__(self: subprocess.Popen[Any], kind: Any, value: Any, traceback: Any) -> None:
    """Collects a child that was killed because of a cancellation, as `subprocess.run()` does.

    The original waits for the child, whatever happened; only after KeyboardInterrupt it soon gives
    up. Who is cancelled cannot wait at all, and the dead child would stay.
    """
    if kind is not None and not issubclass(kind, (Exception, KeyboardInterrupt)):
        with _core.CancelScope(shield=True):
            try:
                self.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                pass
    _exit(self, kind, value, traceback)


def patch() -> None:
    patcher.method(subprocess.Popen, "__init__", __init__)
    patcher.method(subprocess.Popen, "__exit__", __exit__)
    patcher.method(subprocess.Popen, "wait", wait)
