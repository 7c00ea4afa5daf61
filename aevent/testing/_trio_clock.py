"""trio's clock that tells the time of its thread, which a `MockClock` may have in its hands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from .. import _core

if TYPE_CHECKING:
    from ._mock_clock import MockClock

#: Seconds between two looks while there is nowhere to jump to.
_PAUSE = 0.005

#: trio tells those who wait for quiet by how long it has to be: the tests' own come first.
_AFTER_OTHERS = 1e-9


class OwnTimeClock(trio.abc.Clock):
    """The time of the thread, which is `time.monotonic()` unless a `MockClock` is in use."""

    def __init__(self) -> None:
        self._mock: MockClock | None = None
        self._rate = 1.0
        self._jumper: trio.CancelScope | None = None
        self._changed = trio.Event()

    def start_clock(self) -> None:
        """The thread's time runs always."""

    def current_time(self) -> float:
        return _core.current_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        left = deadline - _core.current_time()
        if left <= 0:
            return 0.0
        return left / self._rate if self._rate > 0 else 999999999.0

    # --- what a `MockClock` asks for, where trio's functions work ---

    def begin_mock(self, clock: MockClock) -> None:
        self._mock = clock
        self._rate = clock.rate
        self._jumper = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._jump, clock, self._jumper, name="aevent mock clock")

    def mock_has_changed(self) -> None:
        """That task then runs, and trio reckons anew how long it may wait."""
        if self._mock is not None:
            self._rate = self._mock.rate
        self._changed.set()

    def end_mock(self) -> None:
        assert self._jumper is not None
        self._jumper.cancel()
        self._jumper = self._mock = None
        self._rate = 1.0

    async def _jump(self, clock: MockClock, scope: trio.CancelScope) -> None:
        """Has the clock jump whenever it has been quiet for long enough."""
        pause = 0.0
        with scope:
            while True:
                threshold = clock.autojump_threshold
                if threshold == math.inf:
                    self._changed = trio.Event()
                    await self._changed.wait()
                    continue
                await trio.testing.wait_all_tasks_blocked(max(threshold, pause) + _AFTER_OTHERS)
                if self._mock is not clock or clock.autojump_threshold != threshold:
                    continue
                statistics = _core.statistics()
                # Work that is done elsewhere takes real time.
                rate = 1.0 if statistics.get("working") else clock.rate
                if rate != self._rate:
                    self._rate = rate
                    _core.set_clock(rate)
                pause = _PAUSE
                if not statistics.get("working"):
                    now = _core.current_time()
                    left = trio.lowlevel.current_statistics().seconds_to_next_deadline
                    left = min(left, statistics.get("next_deadline", math.inf) - now)
                    if left < math.inf:
                        # Not a nanosecond too little, whichever way a float was rounded.
                        _core.jump_clock(max(left, 0.0) + 1e-9)
                        pause = 0.0


def options_for_run(options: dict[str, Any]) -> dict[str, Any]:
    """What `trio.run` is given for a run with a mock clock."""
    return {**options, "clock": OwnTimeClock()}
