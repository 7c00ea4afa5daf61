"""The host's task that awaits on behalf of a green thread.

A green thread is no task of asyncio or trio, but what it awaits has to run in one. The thread is
given one with its first `await_()`, its *companion*, and keeps it until it ends.

Thread and companion never run at the same time: the thread parks while the companion has a request
of its, and the companion waits while it has none. What is awaited is stepped in the thread's own
context object, which the thread leaves meanwhile.
"""

from __future__ import annotations

import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

from . import _core
from ._backend import HostBackend
from ._exceptions import AeventError

T = TypeVar("T")
_Asked = TypeVar("_Asked", bound="_Request")
Enter = Callable[[], Awaitable[Any]]
Leave = Callable[[type[BaseException] | None, BaseException | None, Any], Awaitable[bool | None]]


class _Request:
    """Something that a thread wants of its companion, and waits for."""

    def __init__(self, context: Context) -> None:
        self.context = context
        #: What tells the thread's deadline.
        self.deadline = _core.deadline_here()
        #: Around what is awaited, in the host's task.
        self.scope = _core.CancelScope()
        self.done = _core.Event()
        self.results: list[Any] = []
        self.error: BaseException | None = None

    async def fulfil(self, server: _Server) -> None:
        raise NotImplementedError


class _Await(_Request):
    """One `await_()`."""

    def __init__(self, context: Context, awaitable: Awaitable[Any]) -> None:
        super().__init__(context)
        self._awaitable = awaitable

    async def fulfil(self, server: _Server) -> None:
        with self.scope:
            self.scope._set_beyond(self.deadline)
            self.results.append(await _in_context(self.context, self._awaitable))


class Body(_Request):
    """To enter an asynchronous context, and be in it until the thread has left its body.

    All the while the companion is inside of the context, as the body of an `async with` would be:
    what the thread awaits in the body is awaited there, and scopes are left in the order in which
    they were entered.
    """

    def __init__(self, context: Context, enter: Enter, leave: Leave) -> None:
        super().__init__(context)
        self._enter = enter
        self._leave = leave
        #: Around the body, in the thread.
        self.scope_in_thread = _core.CancelScope()
        #: What the host has cancelled the companion with while the thread was in the body.
        self.cancelled_by: BaseException | None = None
        self.end: _End | None = None
        #: What tells the deadline in what the companion has entered.
        self.deadline_of_body: Callable[[], float] | None = None

    async def fulfil(self, server: _Server) -> None:
        try:
            with self.scope:
                self.scope._set_beyond(self.deadline)
                self.results.append(await _in_context(self.context, _awaited(self._enter)))
                self.deadline_of_body = server.host.deadline_here()
                server.bodies.append(self)
                server.request = None
                self.done.set()
                try:
                    await server.serve()
                finally:
                    server.bodies.remove(self)
                assert self.end is not None
                await self._leave_context(server, self.end)
        except BaseException as error:
            if self.end is None:
                raise
            self.end.error = error

    async def _leave_context(self, server: _Server, end: _End) -> None:
        error = end.left_by
        if isinstance(error, _core.Cancelled):
            # The thread is cancelled. The host knows that by another exception, and makes it.
            self.scope.cancel()
            try:
                await server.host.sleep(math.inf)
            except server.host.cancelled as found:
                error = found
        kind = None if error is None else type(error)
        traceback = None if error is None else error.__traceback__
        suppressed = await _in_context(end.context, _awaited(self._leave, kind, error, traceback))
        end.results.append(suppressed)
        if isinstance(error, server.host.cancelled) and not suppressed:
            raise error


class _End(_Request):
    """The thread has left a body, by an exception or without."""

    def __init__(self, context: Context, body: Body, left_by: BaseException | None) -> None:
        super().__init__(context)
        self.body = body
        self.left_by = left_by
        self.scope = body.scope


class _Bell:
    """Wakes a companion that waits; see `HostBackend.park`, which is given it as the waker."""

    def __init__(self, host: HostBackend) -> None:
        self._host = host
        self._callback: Callable[[], object] | None = None

    def arm(self, callback: Callable[[], object]) -> bool:
        self._callback = callback
        return True

    def disarm(self) -> None:
        self._callback = None

    def wake(self) -> None:
        self._host.call_in_host(self._call)

    def _call(self) -> None:
        # Asked now: the host may have cancelled the wait since.
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Server:
    """What the companion does. It knows nothing of the thread, which it must not keep alive."""

    def __init__(self, host: HostBackend) -> None:
        self.host = host
        self._bell = _Bell(host)
        self._stopped = False
        self.request: _Request | None = None
        self.over = False
        #: The bodies that the thread is in, innermost last.
        self.bodies: list[Body] = []

    def start(self) -> None:
        portal = self.host.portal(self._main())
        self.host.call_in_host(lambda: self.host.spawn_detached(portal, self._end))

    def take(self, request: _Request) -> None:
        self.request = request
        self._bell.wake()

    def stop(self) -> None:
        self._stopped = True
        self._bell.wake()

    def _end(self) -> None:
        self.over = True
        if self.request is not None:
            self.request.error = _ended_by_host()
            self.request.done.set()

    async def _main(self) -> None:
        try:
            await self.serve()
        except self.host.cancelled:
            # The host waits for it to end. The thread gets another one if it needs to.
            return

    async def serve(self) -> None:
        """Fulfils requests until the innermost body is left, or the thread has ended."""
        while not self._stopped:
            await self._wait()
            request = self.request
            if isinstance(request, _End):
                if request.body is not self.bodies[-1]:
                    request.error = AeventError(
                        "contexts of async_context() must be left in the reverse order in which "
                        "they were entered"
                    )
                    self._is_fulfilled(request)
                    continue
                request.body.end = request
                return
            if request is None:
                continue
            try:
                await request.fulfil(self)
            except BaseException as error:
                request.error = error
            # To leave a body is a request of its own, and the last of that body.
            fulfilled = request.end if isinstance(request, Body) and request.end else request
            self._is_fulfilled(fulfilled)
            if isinstance(fulfilled.error, self.host.cancelled) and not self.bodies:
                raise fulfilled.error
            # Not while it waits: they refer to frames of the thread.
            del request, fulfilled

    def _is_fulfilled(self, request: _Request) -> None:
        self.request = None
        request.done.set()

    async def _wait(self) -> None:
        while self.request is None and not self._stopped:
            body = self.bodies[-1] if self.bodies else None
            try:
                # The body hears of a cancellation once; it goes on until that is left.
                told = body is not None and body.cancelled_by is not None
                with self.host.open_scope(math.inf, told):
                    await self.host.park(self._bell)  # type: ignore[arg-type]
            except self.host.cancelled as error:
                if body is None:
                    raise
                body.cancelled_by = error
                body.scope_in_thread.cancel()


def _ended_by_host() -> AeventError:
    return AeventError("the awaited task was cancelled by its host")


class Companion:
    """A thread's side of its companion."""

    def __init__(self, host: HostBackend) -> None:
        self.host = host
        self._server = _Server(host)
        self._server.start()

    @property
    def is_free(self) -> bool:
        return self._server.request is None

    def serves(self, host: HostBackend) -> bool:
        return self.host is host and not self._server.over

    def ender(self) -> _Ender:
        return _Ender(self._server)

    def await_(self, awaitable: Awaitable[T]) -> T:
        """Awaits it in the host's task; cancelling the thread cancels it, and waits for its end."""
        result: T = self._ask(lambda context: _Await(context, awaitable))[1]
        return result

    def enter(self, enter: Enter, leave: Leave) -> tuple[Body, Any]:
        """Enters a context, in whose body the thread is from now on."""
        body, value = self._ask(lambda context: Body(context, enter, leave))
        return body, value

    def leave(self, body: Body, error: BaseException | None) -> bool | None:
        """Leaves it; whether that suppresses `error`."""
        if self._server.over:
            raise _ended_by_host()
        suppressed: bool | None = self._ask(lambda context: _End(context, body, error))[1]
        if not suppressed and isinstance(error, self.host.cancelled):
            # It was that of the body's own scope, which stands for the thread's cancellation. The
            # thread knows that by another exception.
            _core.checkpoint_if_cancelled()
            return True
        return suppressed

    def _ask(self, make: Callable[[Context], _Asked]) -> tuple[_Asked, Any]:
        context = _core.lend_context()
        try:
            request = make(context)
            self._server.take(request)
            try:
                request.done.wait()
            except BaseException:
                request.scope.cancel()
                with _core.CancelScope(shield=True):
                    request.done.wait()
                if not request.results and request.error is None:
                    raise
                # It was done before the cancellation reached it: the result must not be lost, and
                # the cancellation is found again at the next blocking call.
        finally:
            _core.take_context_back(context)
        if request.error is not None:
            try:
                raise request.error
            finally:
                del request
        if not request.results:
            raise _ended_by_host()
        return request, request.results[0]


class _Ender:
    """Ends a companion when its thread drops it, which is when the thread ends.

    Frames of the thread never refer to it, which exceptions may keep alive for longer.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server

    def __del__(self) -> None:
        # If anybody but the thread drops it, its loop is gone.
        if not self._server.over and _core.get_host() is self._server.host:
            self._server.stop()


_of_thread = _core.local()


def companion_of_thread(host: HostBackend) -> Companion:
    """The companion of the green thread that calls. It has one from the first call on."""
    companion: Companion | None = getattr(_of_thread, "companion", None)
    if companion is not None and companion.serves(host):
        if companion.is_free:
            return companion
        # It serves this very thread, of which a signal handler asks for more.
        companion = Companion(host)
        _of_thread.enders.append(companion.ender())
        return companion
    companion = Companion(host)
    _of_thread.companion, _of_thread.enders = companion, [companion.ender()]
    return companion


@types.coroutine
def _in_context(context: Context, awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
    """`await awaitable`, with each step of it in `context` itself."""
    coroutine = awaitable if isinstance(awaitable, Coroutine) else _as_coroutine(awaitable)
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    try:
        while True:
            try:
                yielded = context.run(step, value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                value, step = (yield yielded), coroutine.send
            except GeneratorExit:
                context.run(coroutine.close)
                raise
            except BaseException as error:
                value, step = error, coroutine.throw
    finally:
        # An exception that is thrown in would be part of a cycle.
        del value, step


async def _awaited(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Calls `fn` in the host's task: what it returns may depend on that."""
    return await fn(*args)


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
