"""A clock that a test has in its hands."""

from __future__ import annotations

import math
from types import TracebackType

from .. import _core
from .._exceptions import AeventError
from .._monkey import originals
from . import _time_functions


class MockClock:
    """The time of a native loop, for tests: it runs at `rate`, and jumps where it is told to.

    A context manager around code in a task; `aevent.run(main, clock=MockClock())` has it for a
    whole program. Inside, everything that waits in tasks of the calling OS thread goes by it, async
    or not: sleeping, deadlines of scopes, timeouts of sockets, locks and queues. In tasks,
    `time.monotonic`, `time.perf_counter`, `time.time` and their `_ns` forms tell it too, under
    whatever name a module has imported them. `datetime.now()`, real OS threads and code under
    `aevent.native()` have the real time.

    With `rate` 0 the time stands still except for jumps; with 1 it runs as the real one does. If
    all tasks are blocked for `autojump_threshold` seconds of real time (`math.inf`: never; 0 is
    right if all that they wait for is in this process), the clock jumps to the next deadline. It
    does not while a call of `aevent.offload` or a child process is waited for: until that is done,
    time passes as it really does. Both may be changed at any time. Semantics
    `trio.testing.MockClock`.

    The clock starts at the present time. When it is left, `time.time` is the real one again, while
    the monotonic clocks keep their lead until the loop is done, for they never go back.
    """

    def __init__(self, rate: float = 0.0, autojump_threshold: float = math.inf) -> None:
        self._active = False
        self._rate = self._check_rate(rate)
        self._autojump_threshold = self._check_threshold(autojump_threshold)
        self._thread = 0

    def __repr__(self) -> str:
        if not self._active:
            return f"<aevent.testing.MockClock, not in use, rate {self._rate}>"
        return f"<aevent.testing.MockClock, time {_core.current_time()}, rate {self._rate}>"

    @staticmethod
    def _check_rate(rate: float) -> float:
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate must be a non-negative finite number, not {rate!r}")
        return float(rate)

    @staticmethod
    def _check_threshold(threshold: float) -> float:
        if math.isnan(threshold) or threshold < 0:
            raise ValueError(
                f"autojump_threshold must be a non-negative number or math.inf, not {threshold!r}"
            )
        return float(threshold)

    @property
    def rate(self) -> float:
        """Seconds that pass in a real one."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = self._check_rate(rate)
        self._apply()

    @property
    def autojump_threshold(self) -> float:
        """Seconds of real time that nothing may happen before the clock jumps; infinite: never."""
        return self._autojump_threshold

    @autojump_threshold.setter
    def autojump_threshold(self, threshold: float) -> None:
        self._autojump_threshold = self._check_threshold(threshold)
        self._apply()

    def _apply(self) -> None:
        if self._active:
            self._check_thread()
            threshold = self._autojump_threshold
            # More than years is never.
            _core.set_clock(self._rate, threshold if threshold < 1e8 else None)

    def _check_thread(self) -> None:
        if originals.get_ident() != self._thread:
            raise AeventError("a MockClock was used in another OS thread than that of its loop")

    def jump(self, seconds: float) -> None:
        """Sets the clock forward. Whose deadlines have come by then run after the caller."""
        if not seconds >= 0:
            raise ValueError(f"time cannot go backwards: jump() was given {seconds!r}")
        if not self._active:
            raise AeventError("this MockClock is not in use: put 'with clock:' around the test")
        self._check_thread()
        _core.jump_clock(seconds)

    def __enter__(self) -> MockClock:
        if self._active:
            raise AeventError("this MockClock is in use already")
        if _core.driver() == "host":
            raise AeventError(
                "a MockClock is for the native backend, and this loop is another's: run the test "
                "on the native one, or use a clock of the host's (trio.testing.MockClock)"
            )
        _time_functions.patch()
        self._thread = originals.get_ident()
        _time_functions.begin(self)
        self._active = True
        self._apply()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._check_thread()
        self._active = False
        _time_functions.end()
        _core.set_clock(1.0)
        if _core.driver() is None:
            _core.give_up_clock()
