"""anyio's task groups, on ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Literal

import anyio
import anyio.abc
from anyio import TaskHandle
from anyio.abc._tasks import call_for_coroutine, get_callable_name, get_coro_name

from ... import _core
from ..._core import Cancelled
from .scopes import CancelScope

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class _TaskStatus(anyio.abc.TaskStatus[Any]):
    """How a child says that it has started."""

    def __init__(self) -> None:
        self.event = _core.Event()
        self.value: Any = None
        self.abandoned = False

    def started(self, value: Any = None) -> None:
        if self.event.is_set():
            if self.abandoned:
                return
            raise RuntimeError("called 'started' twice on the same task status")
        self.value = value
        self.event.set()


class TaskGroup(anyio.abc.TaskGroup):
    """`anyio.abc.TaskGroup` on the native scheduler."""

    def __init__(self) -> None:
        scope = CancelScope()
        self.cancel_scope: anyio.CancelScope = scope
        self._scope: _core.CancelScope = scope
        self._children: _core.Children | None = None
        self._active = False

    async def __aenter__(self) -> TaskGroup:
        if self._children is not None:
            raise RuntimeError("TaskGroup cannot be entered more than once")
        self._scope.__enter__()
        self._children = _core.Children(self._scope)
        self._active = True
        return self

    def _check_active(self, coro: Coroutine[Any, Any, Any] | None = None) -> _core.Children:
        if not self._active:
            if coro is not None:
                coro.close()
            raise RuntimeError("This task group is not active; no new tasks can be started.")
        assert self._children is not None
        return self._children

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> TaskHandle[Any]:
        if not isinstance(coro, Coroutine):
            raise TypeError(f"expected a coroutine, got {coro.__class__.__qualname__}")
        children = self._check_active(coro)
        handle: TaskHandle[Any] = TaskHandle(coro, get_coro_name(coro, name))
        if context is None:
            children.spawn_coroutine(handle._run_coro(), handle.name)
        else:
            context.run(children.spawn_coroutine, handle._run_coro(), handle.name)
        return handle

    def spawn(
        self, fn: Callable[..., Any], *args: Any, name: str | None = None
    ) -> _core.CancelScope:
        """Starts `fn(*args)`, async or not, and returns the child's cancel scope."""
        children = self._check_active()
        if _core.makes_coroutine(fn):
            return children.spawn_coroutine(fn(*args), name)
        return children.spawn(fn, *args, name=name)

    async def start(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        *args: object,
        name: object = None,
        return_handle: Literal[False, True] = False,
    ) -> Any:
        children = self._check_active()
        status = _TaskStatus()
        coro = call_for_coroutine(func, args, task_status=status)
        handle: TaskHandle[Any] = TaskHandle(coro, get_callable_name(func, name))
        errors: list[BaseException] = []

        async def child() -> None:
            try:
                await handle._run_coro()
                if not status.event.is_set():
                    raise RuntimeError("Child exited without calling task_status.started()")
            except BaseException as error:
                if status.event.is_set():
                    raise
                errors.append(error)
                status.abandoned = True
                status.event.set()

        children.spawn_coroutine(child(), handle.name)
        try:
            await status.event._wait()
        except BaseException:
            status.abandoned = True
            handle.cancel()
            with _core.CancelScope(shield=True):
                await handle.wait()
            raise
        if errors:
            try:
                raise errors[0]
            finally:
                del errors
        if return_handle:
            handle._start_value = status.value
            return handle
        return status.value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        children = self._children
        scope = self._scope
        assert children is not None
        cancelled: BaseException | None = None
        try:
            if isinstance(error, Cancelled):
                cancelled = error
                scope.cancel()
            elif error is not None:
                children.fail(error)
                scope.cancel()
            while children.pending:
                try:
                    await children.wait_empty()
                except Cancelled as found:
                    cancelled = found
                    with _core.CancelScope(shield=True):
                        await children.wait_empty()
                except BaseException as interrupt:
                    children.fail(interrupt)
            errors = children.take_errors()
            self._active = False
            if not errors and error is None and cancelled is None:
                try:
                    await _core.Checkpoint()
                except Cancelled as found:
                    cancelled = found
            if errors:
                group = BaseExceptionGroup("unhandled errors in a TaskGroup", errors)
                absorbed = scope.__exit__(type(group), group, None)
                raise group from None
            absorbed = scope.__exit__(
                None if cancelled is None else type(cancelled),
                cancelled,
                None if cancelled is None else cancelled.__traceback__,
            )
            if cancelled is None or absorbed:
                return True
            if cancelled is error:
                return False
            raise cancelled
        finally:
            self._active = False
            children.close()
            del error, traceback, cancelled
