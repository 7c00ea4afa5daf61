"""A clock that a test has in its hands."""

from __future__ import annotations

import functools
import math
from types import TracebackType
from typing import Any

from .. import _core
from .._backend import HostBackend
from .._exceptions import AeventError
from .._monkey import originals
from . import _time_functions


class MockClock:
    """The time of a loop, for tests: it runs at `rate`, and jumps where it is told to.

    A context manager around code in a task; `aevent.run(main, clock=MockClock())` has it for a
    whole program, on each backend. A loop of asyncio's or trio's has to be made for it: `run` does
    so if it is given the clock, and so does the pytest plugin. Inside, everything that waits in
    tasks of the calling OS thread goes by it, async or not: sleeping, deadlines of scopes, timeouts
    of sockets, locks and queues. In tasks, `time.monotonic`, `time.perf_counter`, `time.time` and
    their `_ns` forms tell it too, under whatever name a module has imported them. `datetime.now()`,
    real OS threads and code under `aevent.native()` have the real time.

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
        #: What drives the loop, and what tells it the time, if it is a host.
        self._host: HostBackend | None = None
        self._of_host: Any = None

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
            if self._host is not None:
                _core.set_clock(self._rate)
                # Timers that are set are reckoned anew.
                _core.jump_clock(0.0)
                self._host.call_in_host(self._of_host.mock_has_changed)
                return
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
        host: Any = _core.get_host()
        if host is not None:
            if not hasattr(host.loop_clock, "begin_mock"):
                raise AeventError(
                    f"this loop of {host.name}'s goes by another clock: give the MockClock to "
                    "aevent.run(…, clock=…), or run the test by the pytest plugin of aevent"
                )
            self._host, self._of_host = host, host.loop_clock
        _time_functions.patch()
        self._thread = originals.get_ident()
        _time_functions.begin(self)
        self._active = True
        if self._host is not None:
            self._host.call_in_host(functools.partial(self._of_host.begin_mock, self))
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
        if self._host is not None:
            # The host goes on. Whoever has run its loop gives up the time that it is ahead.
            _core.jump_clock(0.0)
            self._host.call_in_host(self._of_host.end_mock)
            self._host = self._of_host = None
        elif _core.driver() is None:
            _core.give_up_clock()

    def _options_for_host(self, backend: str, options: dict[str, Any]) -> dict[str, Any]:
        """What the host's `run` is given instead of this as `clock`."""
        del options["clock"]
        # Each imports its host.
        if backend == "trio":
            from ._trio_clock import options_for_run
        else:
            from ._asyncio_clock import options_for_run
        return options_for_run(options)
