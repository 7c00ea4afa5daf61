"""The native backend: the scheduler's own loop. There is no host to translate for."""

from __future__ import annotations

from aevent._backend import Backend


class NativeBackend(Backend):
    """Says that nobody else drives the loop: `aevent.run` runs it itself."""

    name = "native"
    run_options = frozenset({"clock"})


ADAPTER = NativeBackend
