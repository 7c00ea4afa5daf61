"""psycopg2: its wait callback, which it calls wherever libpq would block.

The callback is one for the whole process, so it is called in real threads and outside tasks as
well, and blocks there. With any callback psycopg2 refuses COPY and large objects; `setup` can
exclude it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .. import _core
from .._monkey import originals

_poll = originals.saved["select"]["poll"]
_POLLIN = originals.saved["select"]["POLLIN"]
_POLLOUT = originals.saved["select"]["POLLOUT"]


def _wait_descriptor(descriptor: int, write: bool) -> None:
    if _core.in_task():
        _core.wait_descriptors([(descriptor, not write, write)])
        return
    poll = _poll()
    poll.register(descriptor, _POLLOUT if write else _POLLIN)
    poll.poll()


def apply(extensions: ModuleType) -> bool:
    """Sets the callback, unless the program has set one of its own; whether it did."""
    module: Any = extensions
    if module.get_wait_callback() is not None:
        return False
    ok, read, write = module.POLL_OK, module.POLL_READ, module.POLL_WRITE

    def wait(connection: Any) -> None:
        """Lets the connection finish what it is doing. An exception makes psycopg2 close it."""
        while True:
            try:
                state = connection.poll()
                if state == ok:
                    return
                if state not in (read, write):
                    raise connection.OperationalError(f"bad state from poll: {state}")
                _wait_descriptor(connection.fileno(), state == write)
            except KeyboardInterrupt:
                # As psycopg2's own `extras.wait_select` does: the server ends the query.
                connection.cancel()

    module.set_wait_callback(wait)
    return True
