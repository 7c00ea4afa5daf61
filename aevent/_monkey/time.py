"""`time`: sleeping."""

from __future__ import annotations

import time

from .. import _core
from . import patcher


def patch() -> None:
    patcher.function(time, "sleep", _core.sleep)
