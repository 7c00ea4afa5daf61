"""`CapacityLimiter` for green threads, async tasks and OS threads."""

from __future__ import annotations

from dataclasses import dataclass

from ._core import CapacityLimiter as CapacityLimiter


@dataclass(frozen=True)
class CapacityLimiterStatistics:
    """What `CapacityLimiter.statistics()` tells."""

    borrowed_tokens: int
    total_tokens: float
    #: Those who have a token.
    borrowers: tuple[object, ...]
    tasks_waiting: int


def _statistics(self: CapacityLimiter) -> CapacityLimiterStatistics:
    """How it is used at the moment."""
    borrowed, total, borrowers, waiting = self._numbers()
    return CapacityLimiterStatistics(borrowed, total, tuple(borrowers), waiting)


_statistics.__name__ = "statistics"
_statistics.__qualname__ = "CapacityLimiter.statistics"
CapacityLimiter.statistics = _statistics  # type: ignore[method-assign]
