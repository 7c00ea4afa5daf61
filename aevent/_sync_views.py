"""Asynchronous contexts, iterators, functions and decorators as synchronous code sees them.

All of them stand on `await_`, and work where it does: in every task.
"""

from __future__ import annotations

import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, cast

from . import _core
from ._backend import HostBackend
from ._bridge import await_
from ._companion import Body, Companion, companion_of_thread
from ._portals import with_portal_run_sync

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Sent = TypeVar("Sent")


class _SyncContext(AbstractContextManager[T]):
    """See `async_context`."""

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        kind = type(manager)
        try:
            # Of the class, as `async with` takes them.
            self._enter: Callable[[Any], Awaitable[T]] = kind.__aenter__
            self._exit: Callable[..., Awaitable[bool | None]] = kind.__aexit__
        except AttributeError:
            raise TypeError(
                f"async_context() expects an asynchronous context manager, not {manager!r}"
            ) from None
        self._manager = manager
        self._companion: Companion | None = None
        self._body: Body | None = None

    def __enter__(self) -> T:
        host = _core.get_host()
        if host is None or not _core.in_task() or _core.task_kind() != "green":
            return await_(self._enter(self._manager))
        assert isinstance(host, HostBackend)
        companion = companion_of_thread(host)
        enter = functools.partial(self._enter, self._manager)
        leave = functools.partial(self._exit, self._manager)
        self._body, value = companion.enter(enter, leave)
        self._companion = companion
        self._body.scope_in_thread.__enter__()
        self._body.scope_in_thread._set_beyond(self._body.deadline_of_body)
        return cast("T", value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        companion, self._companion = self._companion, None
        body, self._body = self._body, None
        if companion is None or body is None:
            return await_(self._exit(self._manager, kind, error, traceback))
        try:
            if body.scope_in_thread.__exit__(kind, error, traceback):
                # That is how the host's cancellation has reached the thread.
                error = body.cancelled_by
            return companion.leave(body, error)
        finally:
            # They refer to this frame.
            del error, traceback


def async_context(manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
    """`with async_context(manager) as value:` is `async with manager as value:` in sync code.

    On every backend it is entered and left by one and the same task, which also awaits what the
    body awaits. So it may be one that belongs to a task: a nursery, a timeout, a cancel scope. If
    it cancels its task, whatever the body waits in is cancelled, async or not. What has to be made
    where the host's loop runs, as `asyncio.timeout()`, can be by an `asynccontextmanager`.

    Raises `TypeError` for anything else than an asynchronous context manager, and what `await_`
    raises.
    """
    return _SyncContext(manager)


class _SyncIterator(Iterator[T_co]):
    """See `async_iter`."""

    def __init__(self, iterator: AsyncIterator[T_co]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[T_co]:
        return self

    def __next__(self) -> T_co:
        return _next(self._iterator.__anext__())


class _SyncGenerator(Generator[T_co, Sent, None], Generic[T_co, Sent]):
    """See `async_iter`."""

    def __init__(self, generator: AsyncGenerator[T_co, Sent]) -> None:
        self._generator = generator

    def __next__(self) -> T_co:
        return _next(self._generator.__anext__())

    def send(self, value: Sent, /) -> T_co:
        return _next(self._generator.asend(value))

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        if traceback is not None:
            error = error.with_traceback(traceback)
        return _next(self._generator.athrow(error))

    def close(self) -> None:
        await_(self._generator.aclose())


def _next(item: Awaitable[T]) -> T:
    try:
        return await_(item)
    except StopAsyncIteration:
        raise StopIteration from None


def async_iter(iterable: AsyncIterable[T]) -> Iterator[T]:
    """`for item in async_iter(iterable):` is `async for item in iterable:` in sync code.

    If the iterator is an asynchronous generator, the result is a generator, with `send`, `throw`
    and `close`. One that is not read to its end should be closed, with `contextlib.closing`. As
    everywhere, an asynchronous generator must not yield inside a cancel scope or a task group.

    Raises `TypeError` for what cannot be iterated over asynchronously, and what `await_` raises.
    """
    if not hasattr(type(iterable), "__aiter__"):
        raise TypeError(f"async_iter() expects an asynchronous iterable, not {iterable!r}")
    iterator = type(iterable).__aiter__(iterable)
    if all(hasattr(iterator, name) for name in ("asend", "athrow", "aclose")):
        return _SyncGenerator(cast("AsyncGenerator[T, Any]", iterator))
    return _SyncIterator(iterator)


def autoawait(fn: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """A synchronous function that calls the asynchronous `fn` and awaits what it returns.

    It parks its caller meanwhile, and raises what `fn` and `await_` raise.
    """

    @functools.wraps(fn)
    def awaiting(*args: P.args, **kwargs: P.kwargs) -> T:
        return await_(fn(*args, **kwargs))

    return awaiting


def decorate_as_sync(
    decorator: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """A decorator for asynchronous functions from one for synchronous ones.

    The decorator sees a synchronous function, which it may call as often and whenever it likes.
    The result is asynchronous again, and may be called in any task, with or without a portal:

        @decorate_as_sync(retry(times=3))
        async def fetch(url): ...
    """

    def decorate(fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        decorated = decorator(autoawait(fn))

        @functools.wraps(fn)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            result: T = await with_portal_run_sync(decorated, *args, **kwargs)
            return result

        return call

    return decorate
