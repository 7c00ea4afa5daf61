"""CapacityLimiter, in async tasks, green threads and OS threads."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

import aevent
from tests.backends.contract import Run, Settle


def test_only_so_many_are_inside_and_who_came_first_is_served_first(
    run: Run, settle: Settle
) -> None:
    log: list[str] = []

    async def main() -> None:
        limiter = aevent.CapacityLimiter(2)
        leave = {name: aevent.Event() for name in "abcd"}

        async def task(name: str) -> None:
            async with limiter:
                log.append(name)
                await leave[name].async_wait()

        def thread(name: str) -> None:
            with limiter:
                log.append(name)
                leave[name].wait()

        async with aevent.TaskGroup() as tg:
            for name, fn in (("a", task), ("b", thread), ("c", thread), ("d", task)):
                tg.spawn(fn, name)
                await settle()
            assert log == ["a", "b"]
            statistics = limiter.statistics()
            assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (2, 2)
            assert len(statistics.borrowers) == 2
            leave["b"].set()
            await settle()
            assert log == ["a", "b", "c"]
            leave["a"].set()
            await settle()
            assert log == ["a", "b", "c", "d"]
            for event in leave.values():
                event.set()
        assert limiter.borrowed_tokens == 0

    run(main)


def test_a_borrower_has_one_token_and_gives_back_its_own(run: Run) -> None:
    async def main() -> None:
        limiter = aevent.CapacityLimiter(2)
        await limiter.acquire()
        with pytest.raises(RuntimeError, match="already holding one of"):
            await limiter.acquire()
        with pytest.raises(RuntimeError, match="already holding one of"):
            limiter.acquire_nowait()
        with pytest.raises(RuntimeError, match="isn't holding any"):
            limiter.release_on_behalf_of("somebody")
        await limiter.acquire_on_behalf_of("somebody")
        with pytest.raises(aevent.WouldBlock):
            limiter.acquire_on_behalf_of_nowait("somebody else")
        assert limiter.available_tokens == 0
        limiter.release()
        limiter.release_on_behalf_of("somebody")
        assert limiter.available_tokens == 2

    run(main)


def test_total_tokens_can_be_changed_while_tasks_wait(run: Run, settle: Settle) -> None:
    async def main() -> None:
        limiter = aevent.CapacityLimiter(0)
        done: list[int] = []

        async def task(number: int) -> None:
            await limiter.acquire_on_behalf_of(number)
            done.append(number)

        async with aevent.TaskGroup() as tg:
            for number in range(4):
                tg.spawn(task, number)
                await settle()
            limiter.total_tokens = 1
            await settle()
            assert done == [0]
            limiter.total_tokens = math.inf
            await settle()
            assert sorted(done) == [0, 1, 2, 3]
            assert limiter.available_tokens == math.inf
        limiter.total_tokens = 1
        assert limiter.available_tokens == -3
        limiter.release_on_behalf_of(0)
        with pytest.raises(aevent.WouldBlock):
            limiter.acquire_nowait()

    run(main)


@pytest.mark.parametrize(
    ("total", "kind"), [(1.5, TypeError), ("1", TypeError), (-1, ValueError), (math.nan, TypeError)]
)
def test_a_senseless_number_of_tokens_is_refused(total: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="total_tokens must be"):
        aevent.CapacityLimiter(total)
    limiter = aevent.CapacityLimiter(1)
    with pytest.raises(kind, match="total_tokens must be"):
        limiter.total_tokens = total
    assert limiter.total_tokens == 1


def test_cancellation_takes_no_token(run: Run, settle: Settle) -> None:
    async def main() -> None:
        limiter = aevent.CapacityLimiter(1)
        with aevent.CancelScope() as scope:
            scope.cancel()
            await limiter.acquire()
        assert scope.cancelled_caught and limiter.borrowed_tokens == 0
        await limiter.acquire_on_behalf_of("first")
        async with aevent.TaskGroup() as tg:
            waiting = [tg.spawn(limiter.acquire_on_behalf_of, "second")]
            waiting += [tg.spawn(limiter.sync_acquire)]
            await settle()
            assert limiter.statistics().tasks_waiting == 2
            # Served and cancelled at once: the token goes on to the next, or back.
            limiter.release_on_behalf_of("first")
            for scope in waiting:
                scope.cancel()
        assert limiter.statistics().tasks_waiting == 0
        assert limiter.borrowed_tokens <= 1  # who was served before he was cancelled has it

    run(main)


def test_acquiring_is_a_checkpoint_also_if_a_token_is_free(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        limiter = aevent.CapacityLimiter(1)

        async def other() -> None:
            log.append("other")

        async with aevent.TaskGroup() as tg:
            tg.spawn(other)
            for _ in range(2):  # trio mixes the order of those who are ready
                async with limiter:
                    pass
            log.append("main")

    run(main)
    assert log == ["other", "main"]


def test_real_threads_wait_for_tasks_and_the_other_way_round(run: Run) -> None:
    limiter = aevent.CapacityLimiter(1)
    inside = threading.Event()

    def real() -> None:
        inside.set()
        with limiter:
            pass

    async def main() -> None:
        async with limiter:
            with aevent.native():
                thread = threading.Thread(target=real)
                thread.start()
                inside.wait()
        await aevent.to_thread.run_sync(thread.join)
        assert limiter.borrowed_tokens == 0

    run(main)
