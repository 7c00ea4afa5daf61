"""psycopg 3: in tasks it waits by `poll`, not in C.

It chooses how to wait when it is imported, and asks whether gevent is there, by name.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .. import _core


def apply(waiting: ModuleType) -> bool:
    """Replaces `waiting.wait` by a function that decides at each call."""
    module: Any = waiting
    original = module.wait
    if not hasattr(module, "wait_poll") or hasattr(original, "_aevent_orig"):
        return False

    def wait(*args: Any, **kwargs: Any) -> Any:
        _mind_cancellation()
        return module.wait_poll(*args, **kwargs)

    module.wait = _core.PatchedFunction(original, wait, "wait", "wait", module.__name__)
    return True


def _mind_cancellation() -> None:
    """Has psycopg treat a cancellation as it does Ctrl-C.

    Otherwise the connection would be stuck in the query that nobody waits for any more. In a task
    of asyncio, which is cancelled once, the server is asked to end the query; where cancellation is
    level-triggered, asking is cancelled as well, and psycopg closes the connection.
    """
    module: Any = sys.modules.get("psycopg.connection")
    known = getattr(module, "_INTERRUPTED", None)
    if isinstance(known, tuple) and _core.Cancelled not in known:
        hosts = {"asyncio": "CancelledError", "trio": "Cancelled"}
        theirs = [getattr(sys.modules[h], name) for h, name in hosts.items() if h in sys.modules]
        module._INTERRUPTED = (*known, _core.Cancelled, *theirs)
