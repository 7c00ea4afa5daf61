"""`selectors`: every selector asks its original without waiting, and parks in between."""

from __future__ import annotations

import selectors
import time
from typing import Any

from .. import _core
from . import patcher


def _cooperative(original: Any) -> Any:
    def select(self: Any, timeout: float | None = None) -> Any:
        ready = original(self, 0)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ready:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
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
            _core.wait_descriptors(wanted, left)
            ready = original(self, 0)
        return ready

    return select


def patch() -> None:
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
        kind = getattr(selectors, name, None)
        if kind is not None:
            patcher.method(kind, "select", _cooperative(kind.select))
