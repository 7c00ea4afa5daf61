"""By when tasks of asyncio's will be cancelled: by anyio's scopes, and by `asyncio.timeout`.

anyio tells it of its own scopes, and the running task only. Here others ask, too, and at any time:
what is asked about is a place, which is a task's innermost scope and its timeouts.

A timeout cancels its task whatever scopes with shields are inside. If that task has entered a task
group, the group then cancels its children: what the group is in counts for these, until they are
shielded themselves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from anyio._backends import _asyncio as anyio_on_asyncio

from aevent._host_scopes import Host, effective_deadline, note

#: Those that a task has entered and not left, `asyncio.Timeout` objects.
_timeouts: WeakKeyDictionary[asyncio.Task[Any], list[Any]] = WeakKeyDictionary()


def notice_timeouts() -> None:
    """Notices from now on which timeouts a task enters. Nobody tells."""
    kind: Any = getattr(asyncio, "Timeout", None)  # since 3.11
    if kind is None or hasattr(kind.__aenter__, "_aevent_notices"):
        return
    enter, leave = kind.__aenter__, kind.__aexit__

    def __aenter__(self: Any) -> Coroutine[Any, Any, Any]:
        task = asyncio.current_task()
        if task is not None:
            _timeouts.setdefault(task, []).append(self)
        entered: Coroutine[Any, Any, Any] = enter(self)
        return entered

    def __aexit__(self: Any, *error: Any) -> Coroutine[Any, Any, Any]:
        task = asyncio.current_task()
        entered = None if task is None else _timeouts.get(task)
        if entered is not None and self in entered:
            entered.remove(self)
        left: Coroutine[Any, Any, Any] = leave(self, *error)
        return left

    __aenter__._aevent_notices = True  # type: ignore[attr-defined]
    kind.__aenter__, kind.__aexit__ = __aenter__, __aexit__


def timeouts_of_running_task() -> tuple[Any, ...]:
    """The timeouts that it is in."""
    task = asyncio.current_task()
    return () if task is None else tuple(_timeouts.get(task, ()))


def earliest(host: Host, timeouts: tuple[Any, ...]) -> float:
    """The deadline of the first one, in seconds of our clock."""
    found = [timeout.when() for timeout in timeouts]
    return host.in_our_clock(min((when for when in found if when is not None), default=math.inf))


class Place:
    """Where the running task is. Called, it tells the deadline there, in seconds of our clock."""

    def __init__(self, host: Host) -> None:
        task = asyncio.current_task()
        state = None if task is None else anyio_on_asyncio._task_states.get(task)
        self._scope: Any = None if state is None else state.cancel_scope
        self._timeouts = timeouts_of_running_task()
        self._host = host

    def __call__(self) -> float:
        deadline = effective_deadline(self._host, self._scopes())
        if self._timeouts:
            return min(deadline, earliest(self._host, self._timeouts))
        return deadline

    def _scopes(self) -> Iterator[Any]:
        scope = self._scope
        while scope is not None:
            if scope.cancel_called:
                note(scope).cancelled = True
            yield scope
            scope = scope._parent_scope
