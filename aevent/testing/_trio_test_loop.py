"""trio's loop for tests, as a guest: that is how it can be left and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from .. import _core
from .._monkey import originals
from .._signals import in_main_os_thread
from .._sync import Event
from ._test_loops import HostTestLoop
from ._trio_clock import OwnTimeClock

_set_wakeup_fd: Callable[..., int] = originals.saved["signal"]["set_wakeup_fd"]


class TrioTestLoop(HostTestLoop):
    """A guest run whose host is pytest: it calls what trio wants to be called."""

    def _run_until_ready(self) -> None:
        self._wakeup_fd = -1
        self._is_ready = False
        self._outcome: Any = None
        # A real one: trio's threads put into it.
        self._calls = originals.saved["queue"]["SimpleQueue"]()
        with self._driving(None, attached=False):
            trio.lowlevel.start_guest_run(
                self._main,
                clock=OwnTimeClock(),
                run_sync_soon_threadsafe=self._calls.put,
                done_callback=self._on_done,
            )
            self._run_while(lambda: not self._is_ready and self._outcome is None)
        if self._outcome is not None:
            self._outcome.unwrap()

    @contextmanager
    def _wakeups(self) -> Iterator[None]:
        """trio's own, which are not there outside."""
        if not in_main_os_thread():
            yield
            return
        pytests = _set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)
        try:
            yield
        finally:
            self._wakeup_fd = _set_wakeup_fd(pytests, warn_on_full_buffer=False)

    def _on_ready(self) -> None:
        self._is_ready = True

    def _on_done(self, outcome: Any) -> None:
        self._outcome = outcome

    def _run_while(self, waits: Callable[[], bool]) -> None:
        while waits():
            self._calls.get()()

    def _run_until(self, done: Event, wake: Event, main: _core.Task | None) -> None:
        with self._driving(main):
            # Not before: it rings the host's bell.
            wake.set()
            self._run_while(lambda: not done.is_set() and self._outcome is None)

    def _run_until_over(self, wake: Event) -> None:
        with self._driving(None):
            wake.set()
            self._run_while(lambda: self._outcome is None and not self.is_abandoned)
        if self._outcome is not None:
            # A mock clock may have left it ahead, and nothing has a deadline any more.
            _core.give_up_clock()
            self._outcome.unwrap()

    def _break_off(self) -> None:
        # Whoever waits for a call finds that it is over.
        self._calls.put(lambda: None)
