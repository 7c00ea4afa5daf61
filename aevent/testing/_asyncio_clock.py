"""asyncio's loop in the time of its thread, which a `MockClock` may have in its hands."""

from __future__ import annotations

import asyncio
import math
import selectors
from typing import TYPE_CHECKING, Any

from .. import _core

if TYPE_CHECKING:
    from ._mock_clock import MockClock


class OwnTimeSelector(selectors.DefaultSelector):
    """Where the loop waits: nobody is ready then, so this is where it is quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: MockClock | None = None
        #: Who waits until it is quiet, and for how many seconds it has to be.
        self.waiters: list[tuple[float, asyncio.Future[None]]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The events that have come by then; `timeout` is in the loop's time."""
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        if self.clock is None and not self.waiters:
            return super().select(timeout)
        now = _core.current_time()
        statistics = _core.statistics()
        deadline = math.inf if timeout is None else now + timeout
        rate, threshold = 1.0, math.inf
        if self.clock is not None:
            # The scheduler's timers are the loop's, too: the kernel knows nothing of this time.
            deadline = min(deadline, statistics.get("next_deadline", math.inf))
            if not statistics.get("working"):
                rate, threshold = self.clock.rate, self.clock.autojump_threshold
        left = max(deadline - now, 0.0)
        real = left / rate if rate > 0 else (0.0 if left == 0 else math.inf)
        if deadline == math.inf:
            real = threshold = math.inf
        cushion = min((cushion for cushion, _ in self.waiters), default=math.inf)
        events = self._select_at(rate, min(real, threshold, cushion))
        if not events and real > min(threshold, cushion):
            # Those who wait for quiet come first, and are not quiet then.
            if cushion <= threshold:
                self._tell_waiters(cushion)
            else:
                # Not a nanosecond too little, whichever way a float was rounded.
                _core.jump_clock(max(deadline - _core.current_time(), 0.0) + 1e-9)
        return events

    def _select_at(self, rate: float, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
        timeout = None if seconds == math.inf else seconds
        if self.clock is None or rate == self.clock.rate:
            return super().select(timeout)
        _core.set_clock(rate)
        try:
            return super().select(timeout)
        finally:
            _core.set_clock(self.clock.rate)

    def _tell_waiters(self, cushion: float) -> None:
        waiters, self.waiters = self.waiters, []
        for each in waiters:
            if each[0] > cushion:
                self.waiters.append(each)
            elif not each[1].done():
                each[1].set_result(None)


class OwnTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's usual loop, but for the time that it goes by."""

    def __init__(self) -> None:
        self._own_selector = OwnTimeSelector()
        super().__init__(self._own_selector)

    def time(self) -> float:
        """The time of the thread, which is `time.monotonic()` unless a `MockClock` is in use."""
        return _core.current_time()

    async def wait_quiet(self, cushion: float) -> None:
        """Waits until nobody has had anything to do for `cushion` real seconds."""
        await asyncio.sleep(0)
        waiter = (cushion, self.create_future())
        self._own_selector.waiters.append(waiter)
        try:
            await waiter[1]
        finally:
            if waiter in self._own_selector.waiters:
                self._own_selector.waiters.remove(waiter)

    # --- what a `MockClock` asks for ---

    def begin_mock(self, clock: MockClock) -> None:
        self._own_selector.clock = clock

    def mock_has_changed(self) -> None:
        """It is asked anew in each wait."""

    def end_mock(self) -> None:
        self._own_selector.clock = None


def options_for_run(options: dict[str, Any]) -> dict[str, Any]:
    """What `asyncio.Runner` is given for a run with a mock clock."""
    if "loop_factory" in options:
        raise TypeError("a MockClock brings a loop of its own: leave loop_factory out")
    return {**options, "loop_factory": OwnTimeLoop}
