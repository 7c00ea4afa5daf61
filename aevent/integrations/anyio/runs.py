"""What belongs to one run of the loop: anyio's token, and the door for other OS threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

from anyio import RunFinishedError

from ... import _core
from ..._exceptions import AeventError
from ..._monkey import originals


class Run:
    """One run of the native loop in an OS thread. Its identity is anyio's token."""

    def __init__(self, children: _core.Children) -> None:
        self.thread = originals.get_ident()
        self.default_limiter: Any = None
        self.idle_workers: list[Any] = []
        self._lock = originals.allocate_lock()
        self._finished = False
        self._calls: _core.SimpleQueue[Callable[[], object]] = _core.SimpleQueue()
        self._children = children
        children.spawn_coroutine(self._serve(), "aevent: calls from threads", daemon=True)

    async def _serve(self) -> None:
        """Makes the calls that other threads ask for, until the run ends."""
        calls = self._calls
        try:
            while True:
                call = await calls._get_wait()
                call()
        finally:
            with self._lock:
                self._finished = True
            if getattr(_local, "run", None) is self:
                del _local.run
            while not calls.empty():
                # Whoever waits for the outcome is told.
                calls.get_nowait()()

    @property
    def finished(self) -> bool:
        """Whether the loop has ended, or is about to."""
        return self._finished

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Has `fn()`, which must not raise, called in the loop's thread. Thread-safe.

        It is called also if the loop ends before; `finished` is true then. RunFinishedError if the
        loop has ended already.
        """
        with self._lock:
            if self._finished:
                raise RunFinishedError from None
            self._calls.put(fn)

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Starts a task that is cancelled when the program has ended."""
        self._children.spawn_coroutine(coroutine, name, daemon=True)


_local: threading.local = originals.SystemLocal()


def current_run() -> Run:
    """The run that the caller is in."""
    try:
        run: Run = _local.run
        return run
    except AttributeError:
        pass
    home = _core.set_home(None)
    _core.set_home(home)
    if home is None:
        raise AeventError("this was called outside a task of aevent's native backend")
    run = _local.run = Run(home)
    return run
