"""What aevent raises beside the standard library's own exceptions."""

from __future__ import annotations

from ._core import Cancelled as Cancelled


class AeventError(RuntimeError):
    """aevent was asked for what it cannot do here; the message says what to do instead."""


class AeventWarning(UserWarning):
    """Something works less well than it could, and why."""
