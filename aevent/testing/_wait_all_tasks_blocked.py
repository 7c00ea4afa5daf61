"""Waiting until nobody else has anything to do: what brings order into a test without sleeping."""

from __future__ import annotations

from .. import _core
from .._backend import current_host, in_task_of_ours


async def wait_all_tasks_blocked(cushion: float = 0.0) -> None:
    """Waits until all other tasks, green threads among them, wait for something.

    They must have done so for `cushion` seconds of real time, during which nothing has happened.
    What tasks wait for may come from outside at any time, so choose a cushion if there are sockets
    to other processes. If several tasks wait here, those with the shortest cushion go on first,
    together. Synchronous code calls it by `aevent.await_`. A checkpoint. Semantics
    `trio.testing.wait_all_tasks_blocked`.
    """
    if cushion < 0:
        raise ValueError(f"cushion must be a non-negative number, not {cushion!r}")
    if in_task_of_ours() and _core.driver() == "native":
        # Level-triggered, as every wait: a cancelled task is told at once.
        await _core.wait_quiet(cushion)
    else:
        await current_host().wait_all_tasks_blocked(cushion)
