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

    def __repr__(self) -> str:
        return repr(self.fn)  # of one that raises, the interpreter says this

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


def run_all_in_task() -> None:
    """The program is over: what was registered outside of tasks, too, will run in one.

    Its daemons go on meanwhile, as those of any process do. One may be in the middle of writing a
    record, and `logging.shutdown` waits for the handler's lock.
    """

    def run_all() -> None:
        atexit.unregister(run_all)
        _InTask(atexit._run_exitfuncs)()

    # The last that is registered runs first.
    _register(run_all)


def patch() -> None:
    patcher.function(atexit, "register", register)
