"""What the tests of the contract have in common."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import aevent

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

#: The fixtures `run` and `settle`.
Run = Callable[..., Any]
Settle = Callable[[], Any]


class Boom(Exception):
    pass


def boom(*args: Any) -> None:
    raise Boom(*args)


async def boom_async(*args: Any) -> None:
    await aevent.checkpoint()
    raise Boom(*args)


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def in_each_kind_of_task(run: Run, check: Callable[[], None]) -> None:
    """Runs `check` in an async task's sync code, in main, in a thread and in a green child."""

    async def main() -> None:
        check()
        async with aevent.TaskGroup() as group:
            group.spawn(check)

    run(main)
    run(check)

    def main_with_thread() -> None:
        errors: list[BaseException] = []

        def catch() -> None:
            try:
                check()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=catch)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]

    run(main_with_thread)


def in_os_thread(fn: Callable[[], object]) -> threading.Thread:
    """Starts it in a real thread."""
    with aevent.native():
        thread = threading.Thread(target=fn)
        thread.start()
    return thread
