"""The standard library's own functions, as they were when aevent was imported.

Our own code that must work patched or not takes them from here, and so do the hosts' modules.
"""

from __future__ import annotations

import _thread
import atexit
import queue
import select
import selectors
import signal
import socket
import threading
import time
from types import ModuleType
from typing import Any

_MODULES: tuple[ModuleType, ...] = (
    _thread,
    atexit,
    queue,
    select,
    selectors,
    signal,
    socket,
    threading,
    time,
)

#: Module name to what its public names stood for.
saved: dict[str, dict[str, Any]] = {module.__name__: dict(vars(module)) for module in _MODULES}

allocate_lock = _thread.allocate_lock
get_ident = _thread.get_ident
monotonic = time.monotonic
sleep = time.sleep
system_rlock: Any = saved["threading"]["_CRLock"] or threading.RLock
start_new_thread = _thread.start_new_thread
SystemThread = threading.Thread
SystemLocal = _thread._local
"""A real thread's local data."""
