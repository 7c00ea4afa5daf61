"""Time: sleeping and checkpoints for async code. Synchronous code has `time.sleep`."""

from __future__ import annotations

import math

from . import _core
from ._backend import checkpoint as checkpoint
from ._backend import current_host, in_task_of_ours


def current_time() -> float:
    """The scheduler's clock in seconds: that of `time.monotonic()`, on every backend.

    Deadlines of aevent's scopes are in this clock, also where the host has one of its own.
    """
    return _core.current_time()


@_core.shortcut
async def sleep(seconds: float) -> None:
    """Sleeps for `seconds`. A checkpoint, also with 0. Semantics `trio.sleep`."""
    if seconds < 0 or math.isnan(seconds):
        raise ValueError(f"seconds must be a non-negative number, not {seconds!r}")
    if not in_task_of_ours():
        await current_host().sleep(seconds)
    elif seconds == 0:
        await _core.Checkpoint()
    else:
        await _core.Sleep(_core.current_time() + seconds)


async def sleep_until(deadline: float) -> None:
    """Sleeps until `deadline`, in seconds of `current_time()`. A checkpoint, also if it is past."""
    await sleep(max(0.0, deadline - _core.current_time()))


@_core.shortcut
async def sleep_forever() -> None:
    """Sleeps until it is cancelled. Semantics `trio.sleep_forever`'s."""
    await sleep(math.inf)
