"""What aevent raises beside the standard library's own exceptions."""

from __future__ import annotations

from ._core import BrokenResourceError as BrokenResourceError
from ._core import BusyResourceError as BusyResourceError
from ._core import Cancelled as Cancelled
from ._core import ClosedResourceError as ClosedResourceError
from ._core import EndOfStream as EndOfStream
from ._core import RunFinishedError as RunFinishedError
from ._core import WouldBlock as WouldBlock


class AeventError(RuntimeError):
    """aevent was asked for what it cannot do here; the message says what to do instead."""


class AeventWarning(UserWarning):
    """Something works less well than it could, and why."""
