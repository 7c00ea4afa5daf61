"""anyio's task groups on asyncio and trio: every child has a portal, and there is `spawn`.

Only where a runner has the loop that the group is used in: elsewhere the groups are as they were.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

from ... import _core
from ..._backend import HostBackend, HostScope, wait
from ..._bridge import is_coroutine_function
from ..._core import CancelScope
from ..._exceptions import AeventError
from ..._imports import when_imported
from ..._task_groups import HostGroup, name_of

#: The modules in which anyio has its groups, by the host.
MODULES = {"asyncio": "anyio._backends._asyncio", "trio": "anyio._backends._trio"}


def install() -> None:
    """Mends anyio's groups, now or when they are imported."""
    for host, module in MODULES.items():
        when_imported(module, functools.partial(apply, host))


def apply(host_name: str, module: ModuleType) -> None:
    """Has the groups of `module` give their children portals, and adds `spawn`."""
    kind: Any = module.TaskGroup
    if "spawn" in vars(kind):
        return
    # anyio before 4.14 has no `create_task`.
    if "create_task" in vars(kind):
        kind.create_task = _create_task(kind.create_task, host_name)
    else:
        kind.start_soon = _calls(kind.start_soon, host_name)
    kind.start = _calls(kind.start, host_name)
    kind.spawn = _spawn(host_name)


def _host(name: str) -> HostBackend | None:
    """The host, if it is the one of the name and the caller is in the loop that it drives."""
    host = _core.get_host()
    if isinstance(host, HostBackend) and host.name == name and host.is_running():
        return host
    return None


def _with_portal(host: HostBackend | None, coroutine: Any) -> Any:
    if (
        host is None
        or host.gives_portals
        or isinstance(coroutine, _core.Portal)
        or not isinstance(coroutine, Coroutine)
        or getattr(coroutine, "cr_code", None) in _NEED_NONE
    ):
        return coroutine
    return host.portal(coroutine)


def _create_task(original: Callable[..., Any], host_name: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_task(self: Any, coro: Any, **options: Any) -> Any:
        return original(self, _with_portal(_host(host_name), coro), **options)

    return create_task


def _calls(original: Callable[..., Any], host_name: str) -> Callable[..., Any]:
    """For a method that is given an async function and its arguments."""

    @functools.wraps(original)
    def method(self: Any, func: Any, *args: Any, **options: Any) -> Any:
        host = _host(host_name)
        if host is None or not callable(func):
            return original(self, func, *args, **options)

        @functools.wraps(func)
        def call(*args: Any, **arguments: Any) -> Any:
            return _with_portal(host, func(*args, **arguments))

        return original(self, call, *args, **options)

    return method


def _spawn(host_name: str) -> Callable[..., CancelScope]:
    def spawn(
        self: Any, fn: Callable[..., Any], /, *args: Any, name: str | None = None
    ) -> CancelScope:
        """Starts `fn(*args)` as a child and returns the child's `aevent.CancelScope`.

        `fn` is an async function, or a synchronous one, which runs as a green thread. What it
        raises cancels the group. See `aevent.TaskGroup.spawn`.
        """
        host = _core.get_host()
        if (
            not isinstance(host, HostBackend)
            or host.name != host_name
            or host.is_running() is False
        ):
            raise AeventError(
                "spawn() needs a runner of this loop's: put 'async with aevent.runner():' around "
                "this code, or start the program with aevent.run()."
            )
        if not callable(fn):
            raise TypeError(f"spawn() expects a function and its arguments, not {fn!r}")
        scope = host.open_scope(math.inf, False)
        run = _run_async if is_coroutine_function(fn) else _run_in_thread

        def start() -> None:
            with host.calling_anyio():
                self.start_soon(run, host, scope, fn, args, name=name or name_of(fn))

        host.call_in_host(functools.partial(contextvars.copy_context().run, start))
        return CancelScope._of_host(scope)

    return spawn


async def _run_async(
    host: HostBackend, scope: HostScope, fn: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    with scope:
        await fn(*args)


async def _run_in_thread(
    host: HostBackend, scope: HostScope, fn: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    children = _core.Children()
    with scope:
        children.set_beyond(host.deadline_here())
        children.spawn(fn, *args, name=getattr(fn, "__name__", None))
        try:
            await wait(children.wait_empty())
        except host.cancelled:
            children.cancel()
            with CancelScope(shield=True):
                await wait(children.wait_empty())
            _raise_first(children)
            raise
        finally:
            children.close()
        _raise_first(children)


def _raise_first(children: _core.Children) -> None:
    for error in children.take_errors():
        raise error


#: Coroutines that make no synchronous call that waits.
_NEED_NONE = {HostGroup._watch.__code__, _run_in_thread.__code__}
