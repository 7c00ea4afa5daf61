"""Memory channels: a bounded buffer between tasks, with an end for each side. Semantics trio's.

The names of the functions and methods are trio's, and so the bare names are async; synchronous code
uses the methods whose names begin with `sync_`, or `for item in channel`. The exceptions are named
as anyio's, where one, `EndOfStream`, stands for the end of every kind of stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._core import MemoryReceiveChannel as MemoryReceiveChannel
from ._core import MemorySendChannel as MemorySendChannel
from ._core import open_memory_channel as open_memory_channel


@dataclass(frozen=True)
class MemoryChannelStatistics:
    """What `statistics()` of either end tells."""

    current_buffer_used: int
    max_buffer_size: float
    open_send_channels: int
    open_receive_channels: int
    tasks_waiting_send: int
    tasks_waiting_receive: int


def _statistics(
    self: MemorySendChannel[object] | MemoryReceiveChannel[object],
) -> MemoryChannelStatistics:
    """How the channel is used at the moment."""
    return MemoryChannelStatistics(*self._numbers())


for _kind in (MemorySendChannel, MemoryReceiveChannel):
    _kind.statistics = _statistics  # type: ignore[method-assign]
_statistics.__name__ = "statistics"
