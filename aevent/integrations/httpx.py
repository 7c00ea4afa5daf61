"""httpx and httpcore know asyncio and trio by name; on aevent's native backend they use anyio.

httpcore's primitives are anyio's where its environment is called "asyncio", and work on any backend
of anyio's. It only has to be told that "aevent" is one of these. httpx's transport for ASGI
applications needs an event of the running backend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .anyio import NAME


def _runs_on_aevent() -> bool:
    import sniffio  # importing aevent need not import it

    try:
        return sniffio.current_async_library() == NAME
    except sniffio.AsyncLibraryNotFoundError:
        return False


def apply_to_httpcore(module: ModuleType) -> bool:
    """Has `httpcore._synchronization` take aevent for what it calls asyncio."""
    original: Callable[[], str] = module.current_async_library

    def current_async_library() -> str:
        # There it means that locks, events and streams are anyio's.
        return "asyncio" if _runs_on_aevent() else original()

    for name in ("httpcore._synchronization", "httpcore._backends.auto"):
        user: Any = sys.modules.get(name)
        if user is not None and getattr(user, "current_async_library", None) is original:
            user.current_async_library = current_async_library
    return True


def apply_to_asgi(module: Any) -> bool:
    """Has `httpx._transports.asgi` wait with an event of anyio's on aevent."""
    original: Callable[[], Any] = module.create_event

    def create_event() -> Any:
        if not _runs_on_aevent():
            return original()
        import anyio  # which runs, then

        return anyio.Event()

    module.create_event = create_event
    return True
