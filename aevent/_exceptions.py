"""What aevent raises beside the standard library's own exceptions."""

from __future__ import annotations

import sys

from ._core import BrokenResourceError as BrokenResourceError
from ._core import BusyResourceError as BusyResourceError
from ._core import Cancelled as Cancelled
from ._core import ClosedResourceError as ClosedResourceError
from ._core import EndOfStream as EndOfStream
from ._core import RunFinishedError as RunFinishedError
from ._core import WouldBlock as WouldBlock

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class AeventError(RuntimeError):
    """aevent was asked for what it cannot do here; the message says what to do instead."""


class AeventWarning(UserWarning):
    """Something works less well than it could, and why."""


def split_cancelled(
    error: BaseException, cancelled: type[BaseException] | tuple[type[BaseException], ...]
) -> tuple[BaseException | None, BaseException | None]:
    """What of `error` is a cancellation, and what is left of it without: either may be nothing.

    An exception group may hold both, and more than one cancellation, of which the first is given: a
    host's own groups raise such ones.
    """
    if isinstance(error, cancelled):
        return error, None
    if not isinstance(error, BaseExceptionGroup):
        return None, error
    matching, rest = error.split(cancelled)
    first: BaseException | None = matching
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first, rest
