"""From real threads into the loop. Semantics `trio.from_thread`'s.

In a thread of `to_thread.run_sync` the call is made by the task that waits for the thread: in its
cancel scopes. In others, and in one that its task may abandon, `token=` says which loop is meant
(`aevent.lowlevel.current_token()`), and the call is made by a task of the loop's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from . import _core
from ._entry import Token
from ._exceptions import AeventError
from ._worker import Request, current_worker

T = TypeVar("T")


def run(async_fn: Callable[..., Awaitable[T]], *args: Any, token: Token | None = None) -> T:
    """Runs `async_fn(*args)` in the loop, and blocks the thread until it is done.

    Returns what it returns and raises what it raises: a cancellation, too, if the task that waits
    for this thread is cancelled, or the loop ends. `RunFinishedError` if it has ended already. It
    sees a copy of the thread's context.
    """
    result: T = _run(async_fn, args, token, True)
    return result


def run_sync(fn: Callable[..., T], *args: Any, token: Token | None = None) -> T:
    """Calls `fn(*args)` in the loop, and blocks the thread until it is done. As `run`."""
    result: T = _run(fn, args, token, False)
    return result


def check_cancelled() -> None:
    """Raises what a blocking call would raise in the task that waits for this thread, if cancelled.

    For a long computation in `to_thread.run_sync`, which is otherwise waited for. AeventError in
    other threads.
    """
    worker = current_worker()
    if worker is None:
        raise AeventError(
            "aevent.from_thread.check_cancelled() was called in a thread that was not started by "
            "aevent.to_thread.run_sync()"
        )
    worker.check_cancelled()


def _run(fn: Callable[..., Any], args: tuple[Any, ...], token: Token | None, is_async: bool) -> Any:
    worker = current_worker()
    if token is None:
        if worker is None:
            raise AeventError(
                "aevent.from_thread was called in a thread that was not started by "
                "aevent.to_thread.run_sync(): pass token=, which aevent.lowlevel.current_token() "
                "gives in a task of the loop that is meant"
            )
        if not worker.abandon_on_cancel:
            return worker.ask(fn, args, is_async)
        worker.check_cancelled()
        token = worker.token
    if token._is_ours() and not _core.in_task():
        raise AeventError(
            "aevent.from_thread was called in the very thread of the loop, which would wait for "
            "itself. Call the function directly, or await it."
        )
    request = Request(fn, args, is_async)
    token.run_sync_soon(request.begin_in, token)
    return request.wait()
