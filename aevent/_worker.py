"""Calls in real threads, and the calls that these make back into the loop."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from . import _core
from ._backend import checkpoint_if_cancelled, wait
from ._core import CancelScope
from ._entry import Token
from ._exceptions import Cancelled, RunFinishedError
from ._monkey import originals

#: The `Worker` whose call the OS thread makes.
_of_thread = originals.SystemLocal()


def current_worker() -> Worker | None:
    """The call that the calling OS thread makes for `to_thread.run_sync`, if it does."""
    return getattr(_of_thread, "worker", None)


class Outcome:
    """What a call has returned or raised, on its way to another thread."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error

    def unwrap(self) -> Any:
        """Returns it or raises it, once."""
        error, self.error = self.error, None
        if error is None:
            return self.value
        try:
            raise error
        finally:
            # The traceback's frames refer to us.
            del error, self


class Request:
    """A call that a worker thread asks the task to make that waits for it."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], is_async: bool) -> None:
        self._fn = fn
        self._args = args
        self._is_async = is_async
        #: The thread's, as it is now.
        self._context = contextvars.copy_context()
        self._reply: _core.SimpleQueue[Outcome] = _core.SimpleQueue()

    async def make(self) -> None:
        """Makes the call, in the task that runs this: in its scopes, with the thread's context."""
        try:
            if self._is_async:
                outcome = Outcome(
                    await _in_context(self._context, coroutine_of(self._fn, self._args))
                )
            else:
                outcome = Outcome(self._context.run(self._fn, *self._args))
        except BaseException as error:
            outcome = Outcome(error=error)
        self._reply.put(outcome)

    def begin_in(self, token: Token) -> None:
        """Makes the call as a task of the loop's own, which belongs to nobody. In the loop."""
        if not self._is_async:
            try:
                self._reply.put(Outcome(self._context.run(self._fn, *self._args)))
            except BaseException as error:
                self._reply.put(Outcome(error=error))
            return
        name = getattr(self._fn, "__qualname__", None)
        coroutine = self._detached()
        try:
            token._start(coroutine, self._context, name)
        except BaseException as error:
            coroutine.close()
            ended = RunFinishedError("the loop that was to be called has ended")
            ended.__cause__ = error
            self._reply.put(Outcome(error=ended))

    async def _detached(self) -> None:
        try:
            outcome = Outcome(await coroutine_of(self._fn, self._args))
        except GeneratorExit:
            self._reply.put(
                Outcome(error=RunFinishedError("the loop that was called has ended meanwhile"))
            )
            raise
        except BaseException as error:
            outcome = Outcome(error=error)
        self._reply.put(outcome)

    def wait(self) -> Any:
        """Blocks the thread, or parks the green thread, until it is done."""
        return self._reply.get().unwrap()


def coroutine_of(fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Awaitable[Any]:
    """What `fn(*args)` returns, if that can be awaited."""
    awaitable = fn(*args)
    if not hasattr(awaitable, "__await__"):
        raise TypeError(
            f"from_thread.run() expects an async function, but {fn!r} returned {awaitable!r}: use "
            "from_thread.run_sync() for a synchronous one"
        )
    return awaitable


@types.coroutine
def _in_context(
    context: contextvars.Context, awaitable: Awaitable[Any]
) -> Generator[Any, Any, Any]:
    """Awaits in another context than the running task's."""
    iterator: Any = awaitable if isinstance(awaitable, Coroutine) else awaitable.__await__()
    step: Callable[..., Any] = functools.partial(iterator.send, None)
    if not hasattr(iterator, "send"):
        step = iterator.__next__
    while True:
        try:
            yielded = context.run(step)
        except StopIteration as result:
            return result.value
        try:
            sent = yield yielded
        except BaseException as error:
            step = functools.partial(iterator.throw, error)
        else:
            step = functools.partial(iterator.send, sent)


class Worker:
    """One call in a real thread, and the task that waits for it."""

    def __init__(self, token: Token, abandon_on_cancel: bool) -> None:
        self.token = token
        self.abandon_on_cancel = abandon_on_cancel
        #: The task has been cancelled, and waits no more.
        self.is_abandoned = False
        self._messages: _core.SimpleQueue[Request | Outcome] = _core.SimpleQueue()

    def start(self, fn: Callable[..., Any], args: tuple[Any, ...], limiter: Any) -> None:
        """Has a thread make the call and give its token back."""
        _core.start_worker(functools.partial(self._main, fn, args, limiter))

    def _main(self, fn: Callable[..., Any], args: tuple[Any, ...], limiter: Any) -> None:
        _of_thread.worker = self
        try:
            result = fn(*args)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(
                    f"to_thread.run_sync() expects a synchronous function, but {fn!r} returned a "
                    "coroutine. Await it."
                )
            outcome = Outcome(result)
        except BaseException as error:
            outcome = Outcome(error=error)
        finally:
            del _of_thread.worker, fn, args
        try:
            limiter.release_on_behalf_of(self)
        except BaseException as error:
            outcome = Outcome(error=error)
        self._messages.put(outcome)

    async def wait(self) -> Any:
        """Waits for the call in the running task, and makes the calls that it asks for."""
        while True:
            try:
                if self.abandon_on_cancel:
                    message = await wait(self._messages._get_wait())
                else:
                    with CancelScope(shield=True):
                        message = await wait(self._messages._get_wait())
            except BaseException:
                self.is_abandoned = True
                raise
            if isinstance(message, Outcome):
                return message.unwrap()
            await message.make()

    def ask(self, fn: Callable[..., Any], args: tuple[Any, ...], is_async: bool) -> Any:
        """Has the task that waits for us make a call. In our thread."""
        request = Request(fn, args, is_async)
        self._messages.put(request)
        return request.wait()

    def check_cancelled(self) -> None:
        """Raises in our thread if the task that waits for us is cancelled."""
        if self.is_abandoned:
            raise Cancelled
        if not self.abandon_on_cancel:
            self.ask(checkpoint_if_cancelled, (), True)
