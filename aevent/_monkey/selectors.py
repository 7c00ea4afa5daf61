"""`selectors`: every selector asks its original without waiting, and parks in between."""

from __future__ import annotations

import selectors
from typing import Any

from . import patcher
from .select import Patience


def _cooperative(original: Any) -> Any:
    def select(self: Any, timeout: float | None = None) -> Any:
        ready = original(self, 0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        patience = Patience(timeout)
        while not ready and not patience.is_over():
            if hasattr(self, "fileno"):
                wanted = [(self.fileno(), True, False)]
            else:
                wanted = [
                    (
                        key.fd,
                        bool(key.events & selectors.EVENT_READ),
                        bool(key.events & selectors.EVENT_WRITE),
                    )
                    for key in self.get_map().values()
                ]
            patience.wait(wanted)
            ready = original(self, 0)
        return ready

    return select


def patch() -> None:
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
        kind = getattr(selectors, name, None)
        if kind is not None:
            patcher.keep_in(patcher.in_place(selectors, name), "select")
            patcher.method(kind, "select", _cooperative(kind.select))
