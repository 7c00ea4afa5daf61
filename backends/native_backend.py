"""The native backend: the scheduler's own loop. There is no host to translate for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aevent._backend import Backend

T = TypeVar("T")


class NativeBackend(Backend):
    """Says that nobody else drives the loop: `aevent.run` runs it itself."""

    name = "native"

    def run(self, main: Callable[[], Awaitable[T]], options: dict[str, Any]) -> T:
        raise NotImplementedError("the native loop is run by aevent.run()")


ADAPTER = NativeBackend
