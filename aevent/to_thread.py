"""Synchronous functions in real threads, for async code. Semantics `trio.to_thread`'s.

Synchronous code in a task has `aevent.offload`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ._backend import checkpoint_if_cancelled
from ._core import CapacityLimiter
from ._entry import current_token
from ._worker import Worker

T = TypeVar("T")

#: How many calls run at once unless a limiter is given, in each run of a loop.
DEFAULT_TOKENS = 40


def current_default_thread_limiter() -> CapacityLimiter:
    """The limiter of calls that are given none: one for each run of a loop, of 40 tokens."""
    token = current_token()
    if token.thread_limiter is None:
        token.thread_limiter = CapacityLimiter(DEFAULT_TOKENS)
    return token.thread_limiter


async def run_sync(
    fn: Callable[..., T],
    *args: Any,
    abandon_on_cancel: bool = False,
    limiter: CapacityLimiter | None = None,
) -> T:
    """Calls `fn(*args)` in a real thread, and waits for it. A checkpoint.

    Returns what `fn` returns and raises what it raises. `fn` sees a copy of the caller's context
    and the original standard library, and may call back with `aevent.from_thread`.

    Cancellation waits until `fn` is done, which can ask for it with
    `from_thread.check_cancelled()`. With `abandon_on_cancel`, the task goes on at once; `fn` runs
    to its end and its result is dropped.

    The call borrows a token of `limiter`, or of `current_default_thread_limiter()`, until `fn` is
    done, abandoned or not.
    """
    await checkpoint_if_cancelled()
    if limiter is None:
        limiter = current_default_thread_limiter()
    worker = Worker(current_token(), abandon_on_cancel)
    await limiter.acquire_on_behalf_of(worker)
    try:
        worker.start(fn, args, limiter)
    except BaseException:
        limiter.release_on_behalf_of(worker)
        raise
    result: T = await worker.wait()
    return result
