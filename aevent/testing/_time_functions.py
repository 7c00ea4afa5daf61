"""The functions of `time` that tell the time: in a task, they tell its loop's.

They are patched when the first `MockClock` is used, so that nobody else pays for it; and not listed
with the other patches, since the hosts need not keep the originals: outside tasks nothing changes.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

from .. import _core
from .._exceptions import AeventError
from .._monkey import originals, patcher

_original: dict[str, Any] = originals.saved["time"]

#: OS thread to the clock that is in use there and what the lead over the real time was before.
_in_use: dict[int, tuple[object, int]] = {}

_patched = False


def _lead_ns() -> int:
    """By how much the wall clock of the calling thread is ahead of the real one."""
    in_use = _in_use.get(originals.get_ident())
    return 0 if in_use is None else _core.clock_offset_ns() - in_use[1]


def _time() -> float:
    return float(_original["time"]() + _lead_ns() / 1e9)


def _time_ns() -> int:
    return int(_original["time_ns"]() + _lead_ns())


# Linux has one clock for both.
_REPLACEMENTS: dict[str, Any] = {
    "monotonic": _core.current_time,
    "monotonic_ns": _core.current_time_ns,
    "perf_counter": _core.current_time,
    "perf_counter_ns": _core.current_time_ns,
    "time": _time,
    "time_ns": _time_ns,
}


def begin(clock: object) -> None:
    """The calling thread goes by `clock` from now on."""
    in_use = _in_use.setdefault(originals.get_ident(), (clock, _core.clock_offset_ns()))
    if in_use[0] is not clock:
        raise AeventError(f"another MockClock is in use in this thread: {in_use[0]!r}")


def end() -> None:
    """It goes by the real time again."""
    del _in_use[originals.get_ident()]


def patch() -> None:
    """Replaces the functions in `time`, and wherever a module has them as a global.

    That they are the same for both is what makes this simple: no module has to keep an original.
    """
    global _patched
    if _patched:
        return
    _patched = True
    pairs = {
        name: patcher.make_pair(_original[name], new, name=name, qualname=name, module="time")
        for name, new in _REPLACEMENTS.items()
    }
    # Which of them a name stands for.
    by_original = {id(_original[name]): pair for name, pair in pairs.items()}
    modules: list[Any] = list(sys.modules.values())
    for module in modules:
        # Anything may stand there. Ours have the originals on purpose.
        if not isinstance(module, ModuleType) or module.__name__.partition(".")[0] == "aevent":
            continue
        for name, value in list(vars(module).items()):
            pair = by_original.get(id(value))
            if pair is not None:
                setattr(module, name, pair)
    for name, pair in pairs.items():
        setattr(time, name, pair)
