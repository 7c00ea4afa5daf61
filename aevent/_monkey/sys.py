"""`sys`: trace and profile functions are the green thread's that has set them."""

from __future__ import annotations

import sys

from .. import _core
from . import patcher

_core.set_tracing_functions(sys.gettrace, sys.settrace, sys.getprofile, sys.setprofile)

settrace = _core.settrace
setprofile = _core.setprofile


def patch() -> None:
    patcher.function(sys, "settrace", settrace)
    patcher.function(sys, "setprofile", setprofile)
