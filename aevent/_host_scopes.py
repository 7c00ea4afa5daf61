"""What we know of a host's cancel scopes that the host does not.

A host's scopes form a tree of their own, and what runs in one may belong to a green thread, or to
whoever has started it. And what a green thread does to a scope, the host does at the end of the
running tick; but the green thread may ask for its deadline before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from weakref import WeakKeyDictionary


class Note:
    """About one scope."""

    __slots__ = ("beyond", "cancelled", "pending")

    def __init__(self) -> None:
        #: Tells a deadline, in our clock, of what is in the scope, beside those of the scopes
        #: around it.
        self.beyond: Callable[[], float] | None = None
        #: What is about to be set, and how often it is.
        self.pending: dict[str, list[Any]] = {}
        self.cancelled = False


_notes: WeakKeyDictionary[Any, Note] = WeakKeyDictionary()


class Host(Protocol):
    """What is asked of an adapter here."""

    def in_our_clock(self, deadline: float) -> float: ...
    def call_in_host(self, fn: Callable[[], object]) -> None: ...


def note(scope: Any) -> Note:
    """The note about a host's own scope."""
    found = _notes.get(scope)
    if found is None:
        found = _notes[scope] = Note()
    return found


def cancel(host: Host, scope: Any) -> None:
    """Cancels it, now or when the host can."""
    note(scope).cancelled = True
    host.call_in_host(scope.cancel)


def change(host: Host, scope: Any, name: str, value: Any) -> None:
    """Sets an attribute of it, now or when the host can."""
    pending = note(scope).pending
    values = pending.setdefault(name, [])
    values.append(value)

    def set_now() -> None:
        setattr(scope, name, values.pop(0))
        if not values:
            pending.pop(name, None)

    host.call_in_host(set_now)


def effective_deadline(host: Host, scopes: Iterable[Any]) -> float:
    """That of the first of `scopes`, each of which is inside the next; in our clock."""
    deadline = beyond = math.inf
    for scope in scopes:
        note = _notes.get(scope)
        own, shield = scope.deadline, scope.shield
        if note is not None:
            if note.cancelled:
                return -math.inf
            if note.pending:
                own = note.pending.get("deadline", [own])[-1]
                shield = note.pending.get("shield", [shield])[-1]
            if note.beyond is not None:
                told = note.beyond()
                if told == -math.inf:
                    # It is about to be cancelled for that. Who was told may count on it that his
                    # next wait raises.
                    cancel(host, scope)
                    return told
                beyond = min(beyond, told)
        deadline = min(deadline, own)
        if shield:
            break
    return min(host.in_our_clock(deadline), beyond)
