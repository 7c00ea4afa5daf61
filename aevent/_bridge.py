"""Between async and synchronous code."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from . import _core
from ._backend import HostBackend, checkpoint, current_host
from ._exceptions import AeventError

T = TypeVar("T")


async def per_task() -> None:
    """Lets the running task call synchronous code that parks. A checkpoint.

    On the native backend every task can, and in tasks that `aevent.run` or `TaskGroup.spawn`
    started there is a portal already; there this only is a checkpoint.
    """
    if _core.current_task() is None:
        current_host().install_portal()
    await checkpoint()


def await_(awaitable: Awaitable[T]) -> T:
    """Runs `awaitable` from synchronous code, parking the calling task until it is done.

    In an async task it runs as part of that task. In a green thread of a program that trio or
    asyncio drives, a host task is made for it; cancelling the thread cancels that task, and waits
    for it to end. Raises `RuntimeError` outside a task.
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
    host = _core.get_host()
    if _core.task_kind() == "green" and host is not None:
        assert isinstance(host, HostBackend)
        try:
            return _await_in_host_task(host, awaitable)
        except BaseException:
            if isinstance(awaitable, Coroutine):
                # It may not have begun: a signal handler has raised, or its task was cancelled.
                awaitable.close()
            raise
    # A coroutine is driven as it is; other awaitables by their iterator.
    iterator = awaitable if isinstance(awaitable, Coroutine) else awaitable.__await__()
    result: T = _core.await_here(iterator)
    return result


def _await_in_host_task(host: HostBackend, awaitable: Awaitable[T]) -> T:
    done = _core.Event()
    scope = _core.CancelScope()
    outcome: list[T] = []
    errors: list[BaseException] = []

    async def main() -> None:
        try:
            with scope:
                outcome.append(await awaitable)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    portal = host.portal(main())
    # The host's task sees the thread's context variables, as it would if it had been awaited there.
    context = contextvars.copy_context()
    host.call_in_host(functools.partial(context.run, host.spawn_detached, portal))
    try:
        done.wait()
    except BaseException:
        scope.cancel()
        with _core.CancelScope(shield=True):
            done.wait()
        if outcome:
            # It was done before the cancellation reached it: the result must not be lost, and the
            # cancellation is found again at the next blocking call.
            return outcome[0]
        raise
    if errors:
        try:
            raise errors[0]
        finally:
            del errors
    if not outcome:
        raise AeventError("the awaited task was cancelled by its host")
    return outcome[0]


@contextmanager
def native() -> Iterator[None]:
    """Patched functions are the originals in the body, and may block the whole loop.

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
    """Patched functions cooperate again in the body, inside `native()`.

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
