"""Between async and synchronous code."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from . import _core
from ._backend import HostBackend
from ._companion import companion_of_thread
from ._exceptions import AeventError

T = TypeVar("T")


def await_(awaitable: Awaitable[T]) -> T:
    """Runs `awaitable` from synchronous code, parking the calling task until it is done.

    In an async task it runs as part of that task. In a green thread of a program that trio or
    asyncio drives it runs in a host task, the same for every `await_()` of that thread; cancelling
    the thread cancels what it awaits, and waits for that to end. A result that is there
    nevertheless is returned. The context object is the caller's own on both sides.

    Raises what the awaitable raises, `RuntimeError` outside a task, and `TypeError` for what cannot
    be awaited. A coroutine that could not be begun is closed.
    """
    if not hasattr(awaitable, "__await__"):
        raise TypeError(f"await_() expects an awaitable, not {awaitable!r}")
    if not _core.in_task():
        if isinstance(awaitable, Coroutine):
            awaitable.close()
        raise AeventError(
            "aevent.await_() was called outside a task. Call it from code started by aevent.run() "
            "or TaskGroup.spawn(), or put 'await aevent.per_task()' first in this task."
        )
    is_green = _core.task_kind() == "green"
    host = _core.get_host()
    if is_green and host is not None:
        assert isinstance(host, HostBackend)
        try:
            return companion_of_thread(host).await_(awaitable)
        except BaseException:
            if isinstance(awaitable, Coroutine):
                # It may not have begun: a signal handler has raised, or its task was cancelled.
                awaitable.close()
            raise
    # A coroutine is driven as it is; other awaitables by their iterator.
    iterator = awaitable if isinstance(awaitable, Coroutine) else awaitable.__await__()
    if is_green:
        with _named_to_sniffio():
            return _core.await_here(iterator)  # type: ignore[no-any-return]
    result: T = _core.await_here(iterator)
    return result


@contextmanager
def _named_to_sniffio() -> Iterator[None]:
    """Has sniffio say "aevent" in a green thread, where the native loop runs a coroutine for it."""
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is None:
        # Nobody has asked yet.
        yield
        return
    former, sniffio.thread_local.name = sniffio.thread_local.name, "aevent"
    try:
        yield
    finally:
        sniffio.thread_local.name = former


@contextmanager
def native() -> Iterator[None]:
    """A context manager: patched functions are the originals in the body, and may block the loop.

    For the running task only; without effect outside a task. Nests.
    """
    entered = _core.adjust_native(1)
    try:
        yield
    finally:
        if entered:
            _core.adjust_native(-1)


@contextmanager
def patched() -> Iterator[None]:
    """A context manager: patched functions cooperate again in the body, inside `native()`.

    For the running task only; without effect outside a task. Nests.
    """
    depth = _core.replace_native(0)
    try:
        yield
    finally:
        if depth is not None:
            _core.replace_native(depth)


def is_coroutine_function(fn: Any) -> bool:
    """Whether `fn`, or what a `functools.partial` wraps, or its `__call__`, is an `async def`."""
    known = _core.makes_coroutine(fn)
    if known is not None:
        return known
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(fn, "__call__", None)  # noqa: B004 - its kind is asked for, not whether it is there
    )
