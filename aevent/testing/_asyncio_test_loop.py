"""asyncio's loop for tests: it can be run again and again."""

from __future__ import annotations

import asyncio
from typing import Any

from .. import _core
from .._sync import Event
from ._asyncio_clock import OwnTimeLoop
from ._test_loops import HostTestLoop


class AsyncioTestLoop(HostTestLoop):
    """One of `asyncio.new_event_loop()`, but that the usual one is one for tests."""

    def _run_until_ready(self) -> None:
        self._loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        if type(self._loop) is asyncio.SelectorEventLoop:
            self._loop.close()
            self._loop = OwnTimeLoop()
        self._ready = self._loop.create_future()
        with self._driving(None, attached=False):
            self._main_task = self._loop.create_task(self._main())
            self._main_task.add_done_callback(lambda task: self._on_ready())
            self._loop.run_until_complete(self._ready)

    def _on_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _run_until(self, done: Event, wake: Event, main: _core.Task | None) -> None:
        with self._driving(main):
            # Not before: it rings the host's bell.
            wake.set()
            self._loop.run_until_complete(done.async_wait())

    def _break_off(self) -> None:
        self._loop.stop()

    def _run_until_over(self, wake: Event) -> None:
        loop = self._loop
        try:
            with self._driving(None):
                wake.set()
                loop.run_until_complete(self._main_task)
        except RuntimeError:
            # It was stopped, and stays as it is.
            if not self.is_abandoned:
                raise
            return
        finally:
            if not self.is_abandoned:
                self._end_loop()

    def _end_loop(self) -> None:
        """As `asyncio.run` ends."""
        loop = self._loop
        try:
            loop.run_until_complete(_cancel_all(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
            # A mock clock may have left it ahead, and nothing has a deadline any more.
            _core.give_up_clock()


async def _cancel_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
