"""anyio's task groups: ours, with anyio's handles of tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Literal

import anyio.abc
from anyio import TaskHandle
from anyio.abc._tasks import call_for_coroutine, get_callable_name, get_coro_name

from ... import _core
from ..._exceptions import split_cancelled
from . import tasks


class TaskGroup(_core.TaskGroup, anyio.abc.TaskGroup):  # type: ignore[misc]
    """`anyio.abc.TaskGroup` on the native scheduler. Entered and left as `aevent.TaskGroup` is."""

    start_soon = anyio.abc.TaskGroup.start_soon  # type: ignore[misc, assignment]

    def __aenter__(self) -> Awaitable[TaskGroup]:  # type: ignore[override]
        if self._children is not None:
            raise RuntimeError("TaskGroup cannot be entered more than once")
        return super().__aenter__()

    def _check_active(self) -> None:
        children = self._children
        try:
            if children is not None:
                children.check_open()
                return
        except RuntimeError:
            pass
        raise RuntimeError("This task group is not active; no new tasks can be started.")

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> TaskHandle[Any]:
        if not isinstance(coro, Coroutine):
            raise TypeError(f"expected a coroutine, got {coro.__class__.__qualname__}")
        handle: TaskHandle[Any] = TaskHandle(coro, get_coro_name(coro, name))
        running = handle._run_coro()
        try:
            self._spawn_coroutine(running, handle.name, context)
        except RuntimeError:
            running.close()
            coro.close()
            self._check_active()
            raise
        return handle

    async def start(  # type: ignore[override]
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        *args: object,
        name: object = None,
        return_handle: Literal[False, True] = False,
    ) -> Any:
        self._check_active()
        status = _Starting()
        coro = call_for_coroutine(func, args, task_status=status)
        handle: TaskHandle[Any] = TaskHandle(coro, get_callable_name(func, name))
        scope = self._spawn_coroutine(status.run(handle._run_coro()), handle.name)
        try:
            value = await status.wait(scope)
        finally:
            # Its frames are in the traceback of what is raised here.
            del status
        if return_handle:
            handle._start_value = value
            return handle
        return value


class _Starting(anyio.abc.TaskStatus[Any]):
    """One call of `start`, and what the child says that it has started with.

    The child is a child of the group from the beginning, and a shield keeps the group's
    cancellation from it until it has started. What it raises before that is for the caller.
    """

    def __init__(self) -> None:
        self._progress = _core.Event()
        self._ended = _core.Event()
        self._scope: _core.CancelScope | None = None
        self._starter = _core.current_task()
        self._child: _core.Task | None = None
        self._value: Any = None
        self._started = False
        self._given_up = False
        self._error: BaseException | None = None

    def started(self, value: Any = None) -> None:
        if self._started:
            raise RuntimeError("called 'started' twice on the same task status")
        self._started = True
        if self._given_up:
            return
        self._value = value
        self._belongs_to_group()
        self._progress.set()

    def _belongs_to_group(self) -> None:
        if self._scope is not None:
            self._scope.shield = False
        if self._child is not None:
            tasks.starters.pop(self._child, None)

    async def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """The child."""
        self._child = _core.current_task()
        if self._child is not None and self._starter is not None and not self._started:
            tasks.starters[self._child] = self._starter
        try:
            await coroutine
        except BaseException as error:
            if self._started and not self._given_up:
                raise
            self._error = error
        finally:
            if self._child is not None:
                tasks.starters.pop(self._child, None)
            self._ended.set()
            self._progress.set()

    async def wait(self, scope: _core.CancelScope) -> Any:
        """Waits in the caller, which has just started the child in `scope`."""
        if not self._started:
            self._scope = scope
            scope.shield = True
        try:
            await self._progress._wait()
        except BaseException:
            self._given_up = True
            scope.cancel()
            with _core.CancelScope(shield=True):
                await self._ended._wait()
            if self._error is not None:
                self._error = split_cancelled(self._error, _core.Cancelled)[1]
            if self._error is not None:
                raise self._take_error() from None
            raise
        if self._started:
            return self._value
        if self._error is not None:
            raise self._take_error()
        raise RuntimeError("Child exited without calling task_status.started()")

    def _take_error(self) -> BaseException:
        error, self._error = self._error, None
        assert error is not None
        return error
