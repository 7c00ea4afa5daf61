"""Cancel scopes, for async and synchronous code alike. Names and semantics trio's."""

from __future__ import annotations

import math
from collections.abc import Callable

from . import _core
from ._backend import current_host, in_task_of_ours
from ._core import CancelScope as CancelScope


def _duration(seconds: float | None) -> float:
    if seconds is None:
        return math.inf
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"seconds must be a non-negative number, not {seconds!r}")
    return seconds


def move_on_at(deadline: float, *, shield: bool = False) -> CancelScope:
    """A cancel scope with a deadline in seconds of `current_time()`, `math.inf` for none.

    With `shield`, cancellation from outside does not reach the body. A plain `with`, in async and
    synchronous code. Semantics `trio.move_on_at`'s. ValueError for NaN.
    """
    return CancelScope(deadline=deadline, shield=shield)


def move_on_after(seconds: float | None, *, shield: bool = False) -> CancelScope:
    """A cancel scope whose body is cancelled `seconds` after it begins; `None`: never.

    `cancelled_caught` of the scope tells that it was. As `move_on_at` otherwise; semantics
    `trio.move_on_after`'s. ValueError for a negative number and NaN.
    """
    return CancelScope(relative_deadline=_duration(seconds), shield=shield)


def fail_at(deadline: float, *, shield: bool = False) -> CancelScope:
    """Like `move_on_at`, but raises `TimeoutError` if the deadline ended the body.

    Only its own deadline: not one further out, nor somebody's `cancel()`.
    """
    return move_on_at(deadline, shield=shield)._fail_at_deadline()


def fail_after(seconds: float | None, *, shield: bool = False) -> CancelScope:
    """Like `move_on_after`, but raises `TimeoutError` if the deadline ended the body.

    Only its own deadline: not one further out, nor somebody's `cancel()`.
    """
    return move_on_after(seconds, shield=shield)._fail_at_deadline()


def current_effective_deadline() -> float:
    """When the running task will be cancelled by a deadline, in seconds of `current_time()`.

    `math.inf` if no deadline applies, `-math.inf` if it is cancelled already: then the next wait
    raises. On a host it counts what the host's own scopes say, on asyncio `asyncio.timeout` among
    them, but not `asyncio.wait_for` before Python 3.12, which tells nobody. Semantics trio's.
    """
    if in_task_of_ours():
        return _core.current_effective_deadline()
    return current_host().current_effective_deadline()


def deadline_here() -> Callable[[], float]:
    """Tells, when called, what `current_effective_deadline` would where the running task is now."""
    if in_task_of_ours():
        return _core.deadline_here()
    return current_host().deadline_here()
