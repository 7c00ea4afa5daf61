"""Task groups whose children are async functions and synchronous ones alike."""

from __future__ import annotations

import contextvars
import functools
import math
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from . import _core
from ._backend import HostBackend, HostScope, HostTasks, checkpoint, wait
from ._bridge import is_coroutine_function
from ._core import Cancelled, CancelScope
from ._exceptions import AeventError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class TaskGroup:
    """A group of tasks that is left when all of them have ended.

    `async with TaskGroup() as tg:` and then `tg.spawn(fn, *args)`. If a child or the body fails,
    the others are cancelled, and leaving the group raises an exception group of everything that
    went wrong. Semantics `trio.Nursery`'s; a synchronous `fn` runs as a green thread. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._host: HostBackend | None = None
        self._children: _core.Children | None = None
        self._scope: CancelScope | None = None
        self._manager: AbstractAsyncContextManager[HostTasks] | None = None
        self._tasks: HostTasks | None = None
        self._watched = False
        self._body_ended = False

    @property
    def cancel_scope(self) -> CancelScope:
        """The scope around the body and all children."""
        if self._scope is None:
            raise AeventError("this TaskGroup is not entered: use 'async with TaskGroup() as tg:'")
        return self._scope

    async def __aenter__(self) -> TaskGroup:
        if self._children is not None:
            raise AeventError("a TaskGroup can be entered once only: make a new one")
        host = None if _core.task_kind() in ("coroutine", "green") else _core.get_host()
        if host is None:
            if _core.current_task() is None:
                raise AeventError(
                    "a TaskGroup was entered outside a task: start the program with aevent.run(), "
                    "or put 'async with aevent.runner():' around this code."
                )
            self._scope = CancelScope()
            self._scope.__enter__()
            self._children = _core.Children(self._scope)
        else:
            assert isinstance(host, HostBackend)
            self._host = host
            self._manager = host.open_tasks()
            self._tasks = await self._manager.__aenter__()
            self._scope = CancelScope._of_host(self._tasks.scope)
            self._children = _core.Children()
            self._children.note_deadline(host.current_effective_deadline())
        return self

    def spawn(self, fn: Callable[..., Any], *args: Any, name: str | None = None) -> CancelScope:
        """Starts `fn(*args)` as a child and returns the child's cancel scope.

        `fn` is an async function, or a synchronous one, which runs as a green thread. The scope can
        also be awaited, which gives the scope at once. What `fn` returns is dropped; what it raises
        cancels the group. Not a checkpoint.
        """
        children = self._children
        if children is None:
            raise AeventError("this TaskGroup is not entered: use 'async with TaskGroup() as tg:'")
        if not is_coroutine_function(fn):
            scope = children.spawn(fn, *args, name=name)
            if self._tasks is not None and not self._watched:
                self._watched = True
                self._start_in_host(self._watch, "aevent green threads of a task group")
            return scope
        if self._host is None:
            return children.spawn_coroutine(fn(*args), name=name)
        children.check_open()
        host = self._host
        inner = host.open_scope(math.inf, False)
        self._start_in_host(lambda: host.portal(self._host_child(inner, fn, args)), name)
        return CancelScope._of_host(inner)

    def _start_in_host(
        self, make: Callable[[], Coroutine[Any, Any, None]], name: str | None
    ) -> None:
        """Starts a task of the host's, also when a green thread asks for it.

        The group cannot be left meanwhile: that takes a step of the host's, which comes after.
        """
        assert self._host is not None and self._tasks is not None
        start = functools.partial(self._tasks.start, make, name)
        self._host.call_in_host(functools.partial(contextvars.copy_context().run, start))

    def start_soon(self, fn: Callable[..., Any], *args: Any, name: str | None = None) -> None:
        """Like `spawn`, under trio's name and with trio's result: none."""
        self.spawn(fn, *args, name=name)

    async def _host_child(
        self, scope: HostScope, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        assert self._host is not None and self._children is not None
        try:
            with scope:
                await fn(*args)
        except self._host.cancelled:
            raise
        except BaseException as error:
            self._children.fail(error)
            self.cancel_scope.cancel()

    async def _watch(self) -> None:
        """Stands for the green threads among the host's tasks: passes cancellation both ways."""
        assert self._host is not None and self._children is not None
        children = self._children
        try:
            await wait(children.wait_settled())
            if children.failed:
                self.cancel_scope.cancel()
                await checkpoint()
        except self._host.cancelled:
            children.cancel()
            with CancelScope(shield=True):
                await wait(children.wait_empty())
            raise
        finally:
            # A host's child may still start green threads: then somebody else watches.
            self._watched = False

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        children = self._children
        assert children is not None and self._scope is not None
        self._body_ended = True
        try:
            if self._host is None:
                return await self._leave_ours(children, self._scope, error)
            return await self._leave_host(children, self._host, kind, error, traceback)
        finally:
            children.close()
            # The group is part of the traceback's frames, which it would otherwise keep alive.
            del error, traceback

    async def _leave_ours(
        self, children: _core.Children, scope: CancelScope, error: BaseException | None
    ) -> bool:
        cancelled: BaseException | None = None
        if isinstance(error, Cancelled):
            cancelled = error
        elif error is not None:
            children.fail(error)
        # The children are in scopes of their own below the group's, so whatever cancels the group
        # reaches them without us; what is left to do is to wait.
        while children.pending:
            try:
                with CancelScope(shield=True):
                    await wait(children.wait_empty())
            except BaseException as interrupt:
                # A signal handler's exception: it ends the group, but not before its children.
                children.fail(interrupt)
        errors = children.take_errors()
        if cancelled is None:
            try:
                if errors or error is None:
                    await _core.Checkpoint()
            except Cancelled as found:
                cancelled = found
        absorbed = scope.__exit__(
            None if cancelled is None else type(cancelled),
            cancelled,
            None if cancelled is None else cancelled.__traceback__,
        )
        return self._conclude(errors, error, cancelled, absorbed)

    async def _leave_host(
        self,
        children: _core.Children,
        host: HostBackend,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        cancelled: BaseException | None = None
        if isinstance(error, host.cancelled):
            cancelled = error
        elif error is not None:
            children.fail(error)
            self.cancel_scope.cancel()
        children.settle()
        assert self._manager is not None
        absorbed: bool | None = False
        try:
            absorbed = await self._manager.__aexit__(
                kind if cancelled is not None else None,
                cancelled,
                traceback if cancelled is not None else None,
            )
        except host.cancelled as found:
            cancelled, absorbed = found, False
        return self._conclude(children.take_errors(), error, cancelled, bool(absorbed))

    @staticmethod
    def _conclude(
        errors: list[BaseException],
        error: BaseException | None,
        cancelled: BaseException | None,
        absorbed: bool,
    ) -> bool:
        if errors:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
        if cancelled is not None and not absorbed:
            if cancelled is error:
                return False
            raise cancelled
        return True

    def __repr__(self) -> str:
        if self._children is None:
            state = "unbound"
        elif self._body_ended:
            state = "leaving" if self._children.pending else "left"
        else:
            state = "active"
        return f"<aevent.TaskGroup, {state}>"
