"""`atexit`: what a task has registered runs, at the exit, in a task."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any, TypeVar

from .. import _core
from . import patcher

F = TypeVar("F", bound=Callable[..., Any])


class _InTask:
    """Runs a function in a task of its own. Equal to the function, for `atexit.unregister`."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if _core.driver() is not None:
            self.fn(*args, **kwargs)
            return
        from .._run import run  # at the exit of a program, once

        run(lambda: self.fn(*args, **kwargs), backend="native")

    def __eq__(self, other: object) -> bool:
        return self.fn == (other.fn if isinstance(other, _InTask) else other)

    def __hash__(self) -> int:
        return hash(self.fn)


_register = atexit.register


def register(func: F, /, *args: Any, **kwargs: Any) -> F:
    if not callable(func):
        raise TypeError("the first argument must be callable")
    _register(_InTask(func), *args, **kwargs)
    return func


def patch() -> None:
    patcher.function(atexit, "register", register)
