"""Portals: which tasks may call synchronous code that parks, and how others come to it.

On the native backend every task may. The names are those that users of portals know; see
`docs/from-greenback.md`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from . import _core
from ._backend import HostBackend, checkpoint, current_host
from ._exceptions import AeventError

P = ParamSpec("P")
T = TypeVar("T")


async def per_task() -> None:
    """Lets the running task call synchronous code that parks. A checkpoint.

    On the native backend every task can, and in tasks that `aevent.run` or `TaskGroup.spawn`
    started there is a portal already; there this only is a checkpoint.

    Raises `AeventError` in a host's task outside a runner. The portal stays until the task ends.
    """
    if _core.current_task() is None:
        current_host().install_portal()
    await checkpoint()


async def ensure_portal() -> None:
    """`per_task` by the name that greenback's users know. A checkpoint."""
    await per_task()


def bestow_portal(task: Any) -> None:
    """Lets another task of the host, an `asyncio.Task` or a `trio.lowlevel.Task`, call sync code.

    It counts from that task's next step on. Nothing happens if it has a portal. Raises
    `AeventError` outside a runner, and for what is no task of the host that drives it.
    """
    if isinstance(task, _core.Task):
        return
    host = _core.get_host()
    if host is None:
        raise AeventError(
            "aevent.bestow_portal() needs a runner on asyncio or trio: put 'async with "
            "aevent.runner():' around this code. Tasks of the native backend need no portal."
        )
    assert isinstance(host, HostBackend)
    host.install_portal(task)


def has_portal(task: Any = None) -> bool:
    """Whether `task`, or else the running task, may call `await_`. False outside a task."""
    if task is None:
        return _core.in_task()
    if isinstance(task, _core.Task):
        return True
    host = _core.get_host()
    return isinstance(host, HostBackend) and host.has_portal(task)


async def with_portal_run(fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`await fn(*args, **kwargs)`, which may call synchronous code that parks.

    The portal is there for this call, and on asyncio it needs no help of the running task: the one
    way there that works in every task.
    """
    if _core.in_task() or _core.current_task() is not None:
        return await fn(*args, **kwargs)

    async def call() -> T:
        return await fn(*args, **kwargs)

    return await current_host().portal(call())


async def with_portal_run_tree(
    fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`with_portal_run`, in which every task that the call starts has a portal as well.

    That goes for the tasks that these start, too, until the call returns. On trio a task belongs to
    the call if it is started in a nursery that was opened in it, and on asyncio if its context was
    inherited from it. There a task factory is set meanwhile, which calls the one that is set.
    """
    if _core.driver() == "native":
        return await fn(*args, **kwargs)

    async def call() -> T:
        with current_host().portals_in_tree():
            return await fn(*args, **kwargs)

    return await with_portal_run(call)


async def with_portal_run_sync(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`fn(*args, **kwargs)`, a synchronous call that may park."""

    async def call() -> T:
        return fn(*args, **kwargs)

    return await with_portal_run(call)
