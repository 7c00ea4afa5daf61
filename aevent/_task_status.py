"""Starting a child and waiting until it says that it has started."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from . import _core
from ._backend import HostBackend, checkpoint, wait
from ._bridge import is_coroutine_function
from ._core import Cancelled, CancelScope
from ._exceptions import split_cancelled
from ._run import check_not_coroutine
from ._scopes import current_effective_deadline, deadline_here


class TaskStatus(Protocol):
    """What `TaskGroup.start` gives to the function it starts, as keyword argument `task_status`."""

    def started(self, value: Any = None, /) -> None:
        """Has `start` return `value`. RuntimeError the second time."""


class _Ignored:
    """The default for a parameter `task_status`: the function can be called directly, too.

    Its `started()` does nothing.
    """

    def started(self, value: Any = None, /) -> None:
        pass

    def __repr__(self) -> str:
        return "aevent.TASK_STATUS_IGNORED"


#: The default for the parameter `task_status`: a function that has it can be called directly, too.
TASK_STATUS_IGNORED: TaskStatus = _Ignored()


class _Starting:
    """One call of `start`.

    The child is a child of the group from the beginning, and a shield keeps the group's
    cancellation from it. Until it has started, what it raises is kept for the caller.
    """

    def __init__(self) -> None:
        self._progress = _core.Event()
        self._ended = _core.Event()
        self._called = False
        self._value: Any = None
        self._is_in_group = False
        self._given_up = False
        self._error: BaseException | None = None
        self._cancelled = False
        self._scope: CancelScope | None = None

    def started(self, value: Any = None, /) -> None:
        if self._called:
            raise RuntimeError("called 'started' twice on the same task status")
        self._called = True
        self._value = value
        if self._given_up:
            # The caller was cancelled, and the child with it: it stays where it is.
            return
        self._is_in_group = True
        assert self._scope is not None
        self._scope.shield = False
        self._scope._set_beyond(None)
        self._progress.set()

    async def run_async(self, end: _End, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            await fn(*args, task_status=self)
        except BaseException as error:
            self._failed(error)
        finally:
            self.end()

    def run_sync(self, end: _End, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            check_not_coroutine(fn, fn(*args, task_status=self))
        except BaseException as error:
            self._failed(error)
        finally:
            self.end()

    def _failed(self, error: BaseException) -> None:
        if self._is_in_group:
            raise error
        # That it was cancelled is nothing to tell: only the caller's cancellation reaches it here.
        cancelled, self._error = split_cancelled(error, _cancellations())
        self._cancelled = cancelled is not None
        del cancelled

    def end(self) -> None:
        self._ended.set()
        self._progress.set()

    def begin(
        self,
        group: _core.TaskGroup,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        name: str | None,
    ) -> None:
        run = self.run_async if is_coroutine_function(fn) else self.run_sync
        self._scope = group.spawn(run, _End(self), fn, args, name=name)
        self._scope.shield = True
        # The caller passes on that he is cancelled.
        self._scope._set_beyond(deadline_here())

    async def wait(self) -> Any:
        try:
            if current_effective_deadline() == -math.inf:
                # The child, too, is cancelled where it waits first.
                self._give_up()
                await checkpoint()
            await wait(self._progress._wait())
        except BaseException as raised:
            if not self._is_in_group:
                self._give_up()
                with CancelScope(shield=True):
                    await wait(self._ended._wait())
                if self._error is not None:
                    raise self._take_error() from None
            # It has started in time, or has been cancelled and ended well all the same. Then there
            # is a value, which is not to be lost. A scope's cancellation is found again at the next
            # wait, unlike one by `asyncio.Task.cancel`, or an interrupt.
            has_value = self._is_in_group or (self._called and not self._cancelled)
            is_scopes = _is_cancellation(raised) and current_effective_deadline() == -math.inf
            if has_value and is_scopes:
                return self._value
            raise
        if self._is_in_group:
            return self._value
        if self._error is not None:
            raise self._take_error()
        raise RuntimeError("child exited without calling task_status.started()")

    def _give_up(self) -> None:
        assert self._scope is not None
        self._given_up = True
        self._scope.cancel()

    def _take_error(self) -> BaseException:
        error, self._error = self._error, None
        assert error is not None
        return error


def _cancellations() -> tuple[type[BaseException], ...]:
    host = _core.get_host()
    return (Cancelled, host.cancelled) if isinstance(host, HostBackend) else (Cancelled,)


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, _cancellations())


class _End:
    """Held by the child, for the case that it never begins."""

    __slots__ = ("_starting",)

    def __init__(self, starting: _Starting) -> None:
        self._starting = starting

    def __del__(self) -> None:
        self._starting.end()


async def start(
    group: _core.TaskGroup, fn: Callable[..., Any], args: tuple[Any, ...], name: str | None
) -> Any:
    """See `TaskGroup.start`."""
    starting = _Starting()
    starting.begin(group, fn, args, name)
    try:
        return await starting.wait()
    finally:
        # Its frames are in the traceback of what is raised here.
        del starting
