"""`await_`: asynchronous code from synchronous code."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import pytest

import aevent
from tests.backends.contract import Boom, Run, Settle, in_each_kind_of_task


async def double(value: int) -> int:
    await aevent.sleep(0.001)
    return 2 * value


async def fail(error: BaseException) -> None:
    await aevent.checkpoint()
    raise error


def test_await_gives_the_result(run: Run) -> None:
    def check() -> None:
        assert aevent.await_(double(4)) == 8

    in_each_kind_of_task(run, check)


def test_await_gives_the_result_of_what_never_waits(run: Run) -> None:
    async def at_once() -> str:
        return "x"

    def check() -> None:
        assert aevent.await_(at_once()) == "x"

    in_each_kind_of_task(run, check)


def test_await_raises_the_very_exception(run: Run) -> None:
    error = Boom()

    def check() -> None:
        with pytest.raises(Boom) as caught:
            aevent.await_(fail(error))
        assert caught.value is error

    in_each_kind_of_task(run, check)


def test_await_takes_awaitables_that_are_no_coroutines(run: Run) -> None:
    class Later:
        def __await__(self) -> Any:
            return (yield from double(3).__await__())

    def check() -> None:
        assert aevent.await_(Later()) == 6

    in_each_kind_of_task(run, check)


def test_await_nests_with_sync_code(run: Run) -> None:
    def sync(depth: int) -> int:
        time.sleep(0)
        return 0 if depth == 0 else 1 + aevent.await_(async_(depth))

    async def async_(depth: int) -> int:
        await aevent.checkpoint()
        return sync(depth - 1)

    def check() -> None:
        assert sync(5) == 5

    in_each_kind_of_task(run, check)


def test_await_of_what_is_no_awaitable_is_a_type_error(run: Run) -> None:
    def check() -> None:
        with pytest.raises(TypeError, match=r"await_\(\) expects an awaitable, not 5"):
            aevent.await_(5)  # type: ignore[arg-type]

    in_each_kind_of_task(run, check)


def test_sync_code_in_awaited_code_parks_the_calling_task_only(run: Run) -> None:
    done = threading.Event()

    async def waiter() -> None:
        assert done.wait(60)

    def main() -> None:
        turns: list[int] = []

        def other() -> None:
            for _ in range(5):
                time.sleep(0.001)
                turns.append(1)
            done.set()

        thread = threading.Thread(target=other)
        thread.start()
        aevent.await_(waiter())
        assert len(turns) == 5

    run(main)


def test_await_in_a_green_thread_waits_for_host_primitives(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")

    async def through_host() -> str:
        # Of anyio: the host's own events, sleeps and cancel scopes.
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0.001)
            event.set()
        await event.wait()
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return "done"

    def check() -> None:
        assert aevent.await_(through_host()) == "done"

    in_each_kind_of_task(run, check)


def test_await_an_asyncio_future_from_a_green_thread() -> None:
    import asyncio

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        results: list[int] = []
        async with aevent.TaskGroup() as group:
            group.spawn(lambda: results.append(aevent.await_(future)))
            await asyncio.sleep(0.001)
            assert results == []
            future.set_result(5)
        assert results == [5]

    aevent.run(main, backend="asyncio")


def test_await_a_trio_event_from_a_green_thread() -> None:
    trio = pytest.importorskip("trio")
    testing = pytest.importorskip("trio.testing")

    async def main() -> None:
        event = trio.Event()
        results: list[Any] = []
        async with aevent.TaskGroup() as group:
            group.spawn(lambda: results.append(aevent.await_(event.wait())))
            await testing.wait_all_tasks_blocked()
            assert results == []
            event.set()
        assert results == [None]

    aevent.run(main, backend="trio")


def test_cancelling_a_green_thread_cancels_what_it_awaits(run: Run, settle: Settle) -> None:
    log: list[str] = []

    async def forever() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            with aevent.CancelScope(shield=True):
                await aevent.sleep(0.001)
            log.append("awaited code")

    def green() -> None:
        try:
            aevent.await_(forever())
        finally:
            log.append("green thread")

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(green)
            await settle()
            scope.cancel()
        assert not group.cancel_scope.cancel_called

    run(main)
    assert log == ["awaited code", "green thread"]


def test_a_scope_around_await_cancels_it(run: Run) -> None:
    log: list[str] = []

    async def forever() -> None:
        try:
            await aevent.sleep_forever()
        finally:
            log.append("awaited")

    def check() -> None:
        with aevent.move_on_after(0.005) as scope:
            aevent.await_(forever())
        assert scope.cancelled_caught

    in_each_kind_of_task(run, check)
    assert log == ["awaited"] * 4


def test_a_scope_in_awaited_code_stays_there(run: Run) -> None:
    async def bounded() -> str:
        with aevent.move_on_after(0.002) as scope:
            await aevent.sleep_forever()
        return "caught" if scope.cancelled_caught else "not caught"

    def check() -> None:
        assert aevent.await_(bounded()) == "caught"
        time.sleep(0)

    in_each_kind_of_task(run, check)


def test_what_is_done_when_the_cancellation_comes_is_not_lost(run: Run, settle: Settle) -> None:
    results: list[int] = []

    async def stubborn() -> int:
        try:
            await aevent.sleep_forever()
        except BaseException:
            # Not what one should do: the result exists, so it must arrive.
            return 5
        return 0

    def green() -> None:
        results.append(aevent.await_(stubborn()))
        with pytest.raises(aevent.Cancelled):
            time.sleep(0)
        aevent.await_(aevent.sleep(0))

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(green)
            await settle()
            scope.cancel()

    run(main)
    assert results == [5]


def test_await_outside_a_task_says_what_to_do_and_leaves_no_warning() -> None:
    with pytest.raises(RuntimeError, match=r"aevent\.await_\(\) was called outside a task\. Call"):
        aevent.await_(double(1))


def test_await_under_native_says_what_to_do(run: Run) -> None:
    def check() -> None:
        with aevent.native():
            with pytest.raises(RuntimeError, match="outside a task"):
                aevent.await_(double(1))

    in_each_kind_of_task(run, check)
