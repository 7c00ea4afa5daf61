"""A program's own greenlets in a task, and what a host may do to a task at the worst moment."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import greenlet
import pytest

import aevent


async def in_greenlet(fn: Callable[[int], int], argument: int) -> int:
    """Runs `fn` in a greenlet whose parent is the task, which awaits what `fn` hands it."""
    child = greenlet.greenlet(fn, greenlet.getcurrent())
    result = child.switch(argument)
    while not child.dead:
        result = child.switch(await result)
    assert isinstance(result, int)
    return result


def awaited(coroutine: Any) -> Any:
    return greenlet.getcurrent().parent.switch(coroutine)


@pytest.mark.parametrize("parks", [False, True], ids=["only awaits", "parks too"])
def test_a_coroutines_greenlets_find_their_parent_after_an_await(
    run: Callable[..., Any], parks: bool
) -> None:
    async def query(number: int) -> int:
        await aevent.sleep(0.0005 * (number % 3))
        return number

    def session(number: int) -> int:
        for _ in range(3):
            if parks:
                time.sleep(0.0005)
            assert awaited(query(number)) == number
        return number

    results: list[int] = []

    async def task(number: int) -> None:
        results.append(await in_greenlet(session, number))

    async def main() -> None:
        async with aevent.TaskGroup() as tg:
            for number in range(8):
                tg.spawn(task, number)
                tg.spawn(time.sleep, 0.0005 * number)

    run(main)
    assert sorted(results) == list(range(8))


def test_a_task_woken_and_cancelled_at_once_waits_again_undisturbed(
    run: Callable[..., Any],
) -> None:
    waited: list[bool] = []

    async def main() -> None:
        for _ in range(30):
            events = [threading.Event() for _ in range(3)]
            scopes: dict[int, aevent.CancelScope] = {}

            async def child(number: int, event: threading.Event) -> None:
                with aevent.CancelScope() as scope:
                    scopes[number] = scope  # noqa: B023 - awaited before the next round
                    event.wait()
                time.sleep(0.001)
                waited.append(True)

            async with aevent.TaskGroup() as tg:
                for number, event in enumerate(events):
                    tg.spawn(child, number, event)
                while len(scopes) < len(events):
                    await aevent.sleep(0)
                for number, event in enumerate(events):
                    # A thread that ends at once: its stack is who finds the wake-up next.
                    tg.spawn(lambda: None)
                    event.set()
                    scopes[number].cancel()

    run(main)
    assert len(waited) == 90


def test_patched_calls_are_the_originals_once_the_runner_is_left(
    run_host: Callable[..., Any],
) -> None:
    async def main() -> bool:
        async with aevent.runner():
            await aevent.per_task()
            time.sleep(0)
        time.sleep(0.001)
        return aevent._core.in_task()  # type: ignore[attr-defined]

    assert run_host(main) is False


def test_a_thread_that_has_run_a_program_leaves_no_greenlets(run: Callable[..., Any]) -> None:
    """Only their own thread could end them, and it is gone."""

    def green() -> None:
        with aevent.CancelScope():
            aevent.await_(aevent.sleep(0.001))

    async def of_async() -> None:
        async with aevent.TaskGroup() as group:
            for _ in range(3):
                group.spawn(green)

    def of_sync() -> None:
        aevent.await_(of_async())

    def count() -> int:
        gc.collect()
        return sum(isinstance(each, greenlet.greenlet) for each in gc.get_objects())

    def program() -> None:
        run(of_async)
        run(of_sync)

    before = count()
    for _ in range(5):
        thread = threading.Thread(target=program)
        thread.start()
        thread.join()
    # greenlet clears up after a thread when it is next used; what is meant grows with the threads.
    greenlet.getcurrent()
    assert count() - before < 5
