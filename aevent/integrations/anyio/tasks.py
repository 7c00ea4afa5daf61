"""What anyio tells of tasks."""

from __future__ import annotations

from typing import Any, cast

import anyio

from ... import _core
from ..._tasks import task_name

#: Tasks that have not said yet that they have started, and who waits for that: until then, it is
#: the parent.
starters: dict[_core.Task, _core.Task] = {}


class TaskInfo(anyio.TaskInfo):
    """`anyio.TaskInfo` of a task of ours."""

    __slots__ = ("_task",)

    def __init__(self, task: _core.Task) -> None:
        self._task = task
        parent = starters.get(task) or task.parent
        coroutine = cast(Any, task.coro)
        super().__init__(
            task.ident, None if parent is None else parent.ident, task_name(task), coroutine
        )

    def has_pending_cancellation(self) -> bool:
        return self._task.is_cancelled


def current_task_info() -> TaskInfo:
    """The running task. RuntimeError outside one."""
    task = _core.current_task()
    if task is None:
        raise RuntimeError("no task of aevent's is running")
    return TaskInfo(task)


def running_tasks() -> list[anyio.TaskInfo]:
    """All tasks of the running loop that have not ended."""
    return [TaskInfo(task) for task in _core.all_tasks()]


async def wait_all_blocked() -> None:
    """Waits until every other task of the loop waits for something."""
    await _core.wait_quiet()
