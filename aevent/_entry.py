"""The way into a running loop for other OS threads, and tasks that belong to the loop itself."""

from __future__ import annotations

import contextvars
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from . import _core
from ._backend import HostBackend, wait
from ._exceptions import AeventError, RunFinishedError
from ._monkey import originals


class Token:
    """Stands for a run of a loop, and lets other OS threads call into it.

    Given by `current_token()`. One object for each run.
    """

    #: See `to_thread.current_default_thread_limiter`.
    thread_limiter: _core.CapacityLimiter | None = None

    def run_sync_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Has the loop call `fn(*args)` soon, in its own thread.

        Thread-safe, and reentrant: it may be called by a signal handler or a finalizer. The calls
        are made in their order. What `fn` raises is reported and otherwise dropped; it must not
        block. Raises `RunFinishedError` if the run has ended; a call that came in time may then not
        be made.
        """
        raise NotImplementedError

    def _start(
        self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context, name: str | None
    ) -> None:
        """Starts a task that belongs to the run. In the loop's own thread."""
        raise NotImplementedError

    def _is_ours(self) -> bool:
        """Whether the calling OS thread is the loop's own."""
        return token_of_thread() is self


class NativeToken(Token):
    """A native run's, whose own tasks are among `children`."""

    def __init__(self, children: _core.Children) -> None:
        self.children = children
        self._calls: deque[Callable[[], object]] = deque()
        self._called = _core.Event()
        self._is_served = False
        self._is_over = False
        #: Between looking whether the run is over and leaving a call. A signal handler may come in.
        self._lock = originals.system_rlock()

    def run_sync_soon(self, fn: Callable[..., object], *args: Any) -> None:
        with self._lock:
            if self._is_over:
                raise RunFinishedError("the loop that was to be called has ended")
            self._calls.append(functools.partial(fn, *args))
        self._called.set()

    def _start(
        self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context, name: str | None
    ) -> None:
        self.children.spawn_coroutine(coroutine, name, daemon=True, context=context)

    @contextmanager
    def stands_for_thread(self) -> Iterator[None]:
        """While its loop is driven: it is the one of this OS thread."""
        former = getattr(_native, "token", None)
        _native.token = self
        try:
            yield
        finally:
            _native.token = former

    def serve(self) -> None:
        """Has a task of the loop's make the calls, unless the run is about to end."""
        if not self._is_served and not self.children.is_closed:
            self._is_served = True
            self._start(self._make_calls(), contextvars.Context(), "aevent.entry_queue")

    async def _make_calls(self) -> None:
        while True:
            await wait(self._called._wait())
            self._called.clear()
            self._make_those_left()

    def _make_those_left(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:
                _core.print_exception(error)

    def end(self) -> None:
        """The run is over; whoever waits for an answer to a call is told by it."""
        with self._lock:
            self._is_over = True
        self._make_those_left()


class _HostToken(Token):
    def __init__(self, host: HostBackend) -> None:
        self._host = host

    def run_sync_soon(self, fn: Callable[..., object], *args: Any) -> None:
        self._host.run_soon(functools.partial(_call, functools.partial(fn, *args)))

    def _start(
        self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context, name: str | None
    ) -> None:
        host = self._host
        start: Callable[[], object] = functools.partial(
            context.run, host.spawn_detached, host.portal(coroutine)
        )
        host.call_in_host(start)


def _call(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        _core.print_exception(error)


#: What the calling OS thread's native loop is entered by: `token`.
_native: Any = originals.SystemLocal()


def token_of_thread() -> Token | None:
    """What stands for the loop that runs in this OS thread, if there is one."""
    host = _core.get_host()
    if isinstance(host, HostBackend):
        if host.token is None:
            host.token = _HostToken(host)
        token: Token = host.token
        return token
    return getattr(_native, "token", None)


def current_token() -> Token:
    """What stands for the loop that runs in this OS thread, for other threads to call into it.

    AeventError where none runs.
    """
    token = token_of_thread()
    if token is None:
        raise AeventError(
            "aevent.lowlevel.current_token() was called in an OS thread that runs no loop of "
            "aevent's. Call it in a task, and pass the token on."
        )
    serve()
    return token


def serve() -> None:
    """Has the calls made that are left with this OS thread's native loop, if it runs one."""
    token: NativeToken | None = getattr(_native, "token", None)
    if token is not None:
        token.serve()


def spawn_system_task(
    async_fn: Callable[..., Awaitable[object]],
    *args: Any,
    name: str | None = None,
    context: contextvars.Context | None = None,
) -> None:
    """Starts `async_fn(*args)` as a task of the loop's own, which nobody waits for.

    It is cancelled when the program's main function and its threads have ended. What it raises is
    reported and otherwise dropped. It has an empty context, or `context`. From a task of the
    loop's.
    """
    token = current_token()
    name = name or getattr(async_fn, "__qualname__", None)
    token._start(_reporting(async_fn, args), context or contextvars.Context(), name)


async def _reporting(async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
    try:
        await async_fn(*args)
    except Exception as error:
        _core.print_exception(error)
