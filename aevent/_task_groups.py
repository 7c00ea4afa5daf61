"""Task groups, as far as they are not in Rust: those of hosts, and `start`.

In a task of ours a group is ours. In a host's task it is a group of the host's, beside the
`Children` that are green threads; one task of the host's, the watcher, stands for all of these and
passes cancellation and failures both ways.
"""

from __future__ import annotations

import contextvars
import functools
import math
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from . import _core
from ._backend import HostBackend, HostScope, HostTasks, checkpoint, wait
from ._bridge import await_, is_coroutine_function
from ._core import CancelScope
from ._core import TaskGroup as TaskGroup
from ._exceptions import split_cancelled
from ._task_status import start

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class HostGroup:
    """What a `TaskGroup` does in a host's task."""

    def __init__(self, group: TaskGroup, host: HostBackend) -> None:
        self._group = group
        self._host = host
        self._manager: AbstractAsyncContextManager[HostTasks] = host.open_tasks()
        self._tasks: HostTasks | None = None
        self._watcher: Callable[[], _Watcher | None] = _nobody
        #: Whether a child of the host's was cancelled, and not for its own scope.
        self._child_cancelled = False
        self.children = _core.Children()
        #: Who has entered it.
        self._task = 0
        self._scope: CancelScope | None = None

    @property
    def cancel_scope(self) -> CancelScope:
        """A handle of the host's scope around the body and all children."""
        assert self._scope is not None
        return self._scope

    async def enter(self) -> TaskGroup:
        self._task = self._host.task_identity()
        self._tasks = await self._manager.__aenter__()
        self.children.set_beyond(self._host.deadline_here())
        self._scope = CancelScope._of_host(self._tasks.scope)
        return self._group

    def spawn(self, fn: Callable[..., Any], args: tuple[Any, ...], name: str | None) -> CancelScope:
        """See `TaskGroup.spawn`."""
        children = self.children
        if not is_coroutine_function(fn):
            scope = children.spawn(fn, *args, name=name)
            if self._watcher() is None:
                watcher = _Watcher()
                self._watcher = weakref.ref(watcher)
                watch = functools.partial(self._watch, watcher)
                self._start_in_host(watch, "aevent green threads of a task group")
            return scope
        children.check_open()
        host = self._host
        inner = host.open_scope(math.inf, False)
        member = children.member()
        self._start_in_host(
            lambda: host.portal(self._child(member, inner, fn, args)), name or name_of(fn)
        )
        return CancelScope._of_host(inner)

    def _start_in_host(
        self, make: Callable[[], Coroutine[Any, Any, None]], name: str | None
    ) -> None:
        """Starts a task of the host's, also when a green thread asks for it.

        The group cannot be left meanwhile: that takes a step of the host's, which comes after.
        """
        assert self._tasks is not None
        start = functools.partial(self._tasks.start, make, name)
        self._host.call_in_host(functools.partial(contextvars.copy_context().run, start))

    async def _child(
        self,
        member: _core.Member,
        scope: HostScope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        cancelled: BaseException | None = None
        rest: BaseException | None = None
        try:
            try:
                with scope:
                    await fn(*args)
            except BaseException as error:
                cancelled, rest = split_cancelled(error, self._host.cancelled)
            # Not while it is being handled: it would be the context of what the others are
            # cancelled with.
            if rest is not None:
                self.children.fail(rest)
                self.cancel_scope.cancel()
            if cancelled is not None:
                self._child_cancelled = True
                raise self._host.cancellation_of_child(cancelled)
        finally:
            # Their tracebacks refer to this frame.
            del cancelled, rest
            member.end()

    async def _watch(self, watcher: _Watcher) -> None:
        """Stands for the green threads among the host's tasks: passes cancellation both ways.

        When it has ended, a host's child may still start green threads: then another watches.
        """
        children = self.children
        try:
            await wait(children.wait_settled())
            if children.failed:
                self.cancel_scope.cancel()
                await checkpoint()
        except self._host.cancelled:
            # Whether the group passes it on is up to the children, which may end in spite of it.
            children.cancel()
            with CancelScope(shield=True):
                await wait(children.wait_empty())
        finally:
            if self._watcher() is watcher:
                self._watcher = _nobody

    def check_task(self) -> None:
        """An error unless the running task is the one that has entered the group."""
        if self._host.task_identity() != self._task:
            raise RuntimeError("a TaskGroup is left by another task than the one that entered it")

    async def leave(self, error: BaseException | None) -> bool:
        """The body has ended with `error`. Whether that is absorbed."""
        host, children = self._host, self.children
        cancelled: BaseException | None = None
        failures: list[BaseException] = []
        if error is not None:
            cancelled, rest = split_cancelled(error, host.cancelled)
            if rest is not None:
                children.fail(rest)
            del rest
            self.cancel_scope.cancel()
        children.settle()
        try:
            # Shielded: the host's own group would pass on that it was cancelled while it waited,
            # though no child was. What comes through is plain `Task.cancel`, or an interrupt.
            while children.pending or self._watcher() is not None:
                try:
                    with CancelScope(shield=True):
                        await wait(children.wait_empty())
                        await checkpoint()
                except BaseException as found:
                    if isinstance(found, host.cancelled):
                        cancelled = found
                    else:
                        children.fail(found)
                    self.cancel_scope.cancel()
            if cancelled is None and (self._child_cancelled or children.cancelled):
                # asyncio's groups do not pass on what their tasks were cancelled with. It is found
                # here, in the group's scope: from further out, or because a child was cancelled for
                # no scope at all, which ends the group.
                self.cancel_scope.cancel()
                try:
                    await checkpoint()
                except host.cancelled as found:
                    cancelled = found
            absorbed: bool | None = False
            try:
                absorbed = await self._manager.__aexit__(
                    None if cancelled is None else type(cancelled),
                    cancelled,
                    None if cancelled is None else cancelled.__traceback__,
                )
            except host.cancelled as found:
                cancelled = found
            except BaseExceptionGroup as group:
                cancelled, rest = split_cancelled(group, host.cancelled)
                for each in rest.exceptions if isinstance(rest, BaseExceptionGroup) else ():
                    children.fail(each)
                del rest
            failures = children.take_errors()
            if failures:
                # What went wrong counts more than that it was cancelled meanwhile: a cancellation
                # is found again at the next wait.
                failure = BaseExceptionGroup("unhandled errors in a TaskGroup", failures)
                try:
                    raise failure from None
                finally:
                    # Nor has it a context, as in trio: the body's exception is in it.
                    failure.__context__ = None
                    del failure
            if cancelled is not None and not absorbed:
                if cancelled is error:
                    return False
                raise cancelled
            return True
        finally:
            children.close()
            if self._tasks is not None:
                self._tasks.scope.is_left = True
            # The group is part of the traceback's frames, which it would otherwise keep alive.
            del error, cancelled, failures


class _Watcher:
    """Lives no longer than the coroutine that watches, even if that never begins."""

    __slots__ = ("__weakref__",)


def _nobody() -> None:
    return None


def name_of(fn: Callable[..., Any]) -> str:
    """What a task is called that runs `fn`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    module = getattr(fn, "__module__", None)
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return f"{module}.{name}" if module else name


def _call_async(fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
    await_(fn(*args))


_core.set_group_hooks(HostGroup, is_coroutine_function, _call_async, start)
