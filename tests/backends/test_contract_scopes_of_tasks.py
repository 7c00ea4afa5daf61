"""Whose a cancel scope is: children, threads, and other OS threads that cancel it."""

from __future__ import annotations

import threading
import time

import pytest

import aevent
from tests.backends.contract import Run, in_os_thread


def test_the_scope_of_a_child_cannot_be_entered(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for fn in (time.sleep, aevent.sleep):
                scope = group.spawn(fn, 0)
                with pytest.raises(RuntimeError, match="entered once only"):
                    scope.__enter__()

    run(main)


def test_a_scope_of_a_green_thread_may_be_cancelled_by_an_os_thread(run: Run) -> None:
    def main() -> None:
        with aevent.CancelScope() as scope:
            with aevent.native():
                thread = threading.Thread(target=scope.cancel)
                thread.start()
            time.sleep(3600)
        assert scope.cancelled_caught
        with aevent.native():
            thread.join()

    run(main)


def test_a_child_scope_may_be_cancelled_by_an_os_thread(run: Run) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(time.sleep, 3600)
            with aevent.native():
                thread = threading.Thread(target=scope.cancel)
                thread.start()
            await aevent.checkpoint()
        with aevent.native():
            thread.join()

    run(main)


def test_children_inherit_the_deadline_around_their_group(run: Run) -> None:
    deadlines: list[float] = []

    async def async_() -> None:
        deadlines.append(aevent.current_effective_deadline())

    def sync() -> None:
        deadlines.append(aevent.current_effective_deadline())

    async def main() -> None:
        deadline = aevent.current_time() + 100
        with aevent.move_on_at(deadline):
            async with aevent.TaskGroup() as group:
                group.spawn(async_)
                group.spawn(sync)
        assert deadlines == [pytest.approx(deadline, abs=10)] * 2

    run(main)


def test_threads_do_not_inherit_the_scope_of_their_starter(run: Run) -> None:
    log: list[str] = []

    def worker() -> None:
        time.sleep(0.005)
        log.append("worker")

    def main() -> None:
        with aevent.CancelScope() as scope:
            threading.Thread(target=worker).start()
            scope.cancel()
            time.sleep(3600)

    run(main)
    assert log == ["worker"]


def test_the_deadline_of_a_child_scope_can_be_set_from_outside(run: Run) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    async def async_() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            log.append("async")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for fn in (sync, async_):
                group.spawn(fn).deadline = aevent.current_time() + 0.002

    run(main)
    assert sorted(log) == ["async", "sync"]


def test_a_group_may_be_cancelled_but_not_used_by_an_os_thread(run: Run) -> None:
    errors: list[str] = []

    async def main() -> None:
        async with aevent.TaskGroup() as group:

            def use() -> None:
                for fn in (time.sleep, aevent.sleep):
                    with pytest.raises(RuntimeError) as caught:
                        group.spawn(fn, 0)
                    errors.append(str(caught.value))
                group.cancel_scope.cancel()

            thread = in_os_thread(use)
            await aevent.sleep_forever()
        with aevent.native():
            thread.join()

    run(main)
    assert len(errors) == 2
    assert all("belongs to the OS thread in which it was entered" in error for error in errors)
