"""Worker threads, and what they may ask of the loop: `aevent.to_thread` and `from_thread`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import anyio
import sniffio
from anyio import RunFinishedError
from anyio._core._eventloop import claim_worker_thread

from ... import _core, from_thread
from ..._entry import Token, current_token
from ..._worker import Worker, current_worker
from ...to_thread import current_default_thread_limiter
from .sync import CapacityLimiter


def default_limiter() -> CapacityLimiter:
    """The limiter of the worker threads of a run."""
    token: Any = current_token()
    limiter: CapacityLimiter | None = getattr(token, "anyio_limiter", None)
    if limiter is None:
        limiter = token.anyio_limiter = CapacityLimiter.around(current_default_thread_limiter())
    return limiter


async def run_in_worker(
    backend: type[Any],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    abandon_on_cancel: bool,
    limiter: anyio.CapacityLimiter | None,
) -> Any:
    """Calls `fn(*args)` in a real thread, in a copy of the caller's context."""
    _core.checkpoint_if_cancelled()
    token = current_token()
    limiter = limiter or default_limiter()

    def in_thread() -> Any:
        # What runs here is no async library's.
        sniffio.current_async_library_cvar.set(None)
        with claim_worker_thread(backend, token):
            return fn(*args)

    worker = Worker(token, abandon_on_cancel)
    await limiter.acquire_on_behalf_of(worker)
    try:
        worker.start(in_thread, (), limiter)
    except BaseException:
        limiter.release_on_behalf_of(worker)
        raise
    return await worker.wait()


@contextmanager
def _finished() -> Any:
    try:
        yield
    except _core.RunFinishedError:
        raise RunFinishedError from None


def run_async(
    fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], token: Token | None
) -> Any:
    """Runs `fn(*args)` in the loop that `token` stands for, from another thread."""
    with _finished():
        return from_thread.run(fn, *args, token=token)


def run_sync(fn: Callable[..., Any], args: tuple[Any, ...], token: Token | None) -> Any:
    """Calls `fn(*args)` in the loop that `token` stands for, from another thread."""
    worker = current_worker()
    if token is None and worker is not None and worker.is_abandoned:
        # Nobody waits for it any more, but what it has to tell is told.
        token = worker.token
    with _finished():
        return from_thread.run_sync(fn, *args, token=token)


def run_sync_soon(fn: Callable[..., object], args: tuple[Any, ...], token: Token) -> None:
    """Has `fn(*args)` called in the loop that `token` stands for, which may be the caller's."""
    with _finished():
        token.run_sync_soon(copy_context().run, fn, *args)
