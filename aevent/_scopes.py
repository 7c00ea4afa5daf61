"""Cancel scopes, for async and synchronous code alike. Names and semantics trio's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from . import _core
from ._backend import current_host, in_task_of_ours
from ._core import CancelScope as CancelScope


def _deadline_after(seconds: float | None) -> float:
    if seconds is None:
        return math.inf
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"seconds must be a non-negative number, not {seconds!r}")
    return _core.current_time() + seconds


def move_on_at(deadline: float, *, shield: bool = False) -> CancelScope:
    """A cancel scope with a deadline in seconds of `current_time()`."""
    return CancelScope(deadline=deadline, shield=shield)


def move_on_after(seconds: float | None, *, shield: bool = False) -> CancelScope:
    """A cancel scope whose body is cancelled `seconds` from now; `None`: never."""
    return CancelScope(deadline=_deadline_after(seconds), shield=shield)


@contextmanager
def fail_at(deadline: float, *, shield: bool = False) -> Iterator[CancelScope]:
    """Like `move_on_at`, but raises `TimeoutError` if the deadline ended the body."""
    with CancelScope(deadline=deadline, shield=shield) as scope:
        yield scope
    # Only a deadline of its own is a timeout; somebody's cancel() is none. The time is not asked:
    # a host's clock may run a little ahead of ours.
    if scope.cancelled_caught and not scope._cancel_requested:
        raise TimeoutError("deadline exceeded")


def fail_after(
    seconds: float | None, *, shield: bool = False
) -> AbstractContextManager[CancelScope]:
    """Like `move_on_after`, but raises `TimeoutError` if the deadline ended the body."""
    return fail_at(_deadline_after(seconds), shield=shield)


def current_effective_deadline() -> float:
    """When the running task will be cancelled by a deadline, in seconds of `current_time()`.

    `math.inf` if no deadline applies, `-math.inf` if it is cancelled already.
    """
    if in_task_of_ours():
        return _core.current_effective_deadline()
    return current_host().current_effective_deadline()
