"""Asynchronous contexts, iterators and functions in synchronous code; portals."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import sniffio
import trio

import aevent
from tests.backends.contract import Boom, Run, in_each_kind_of_task

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


# --- contexts ---


def test_what_awaited_code_sets_is_seen_by_who_awaits_and_the_other_way_round(run: Run) -> None:
    async def awaited() -> str:
        await aevent.sleep(0)
        seen = variable.get()
        variable.set("by awaited code")
        await aevent.sleep(0)
        return seen

    def check() -> None:
        variable.set("by sync code")
        assert aevent.await_(awaited()) == "by sync code"
        assert variable.get() == "by awaited code"

    in_each_kind_of_task(run, check)


def test_a_token_is_good_on_the_other_side_of_await(run: Run) -> None:
    """That takes the very same context object."""

    async def set_it() -> contextvars.Token[str]:
        await aevent.checkpoint()
        return variable.set("x")

    async def reset(token: contextvars.Token[str]) -> None:
        await aevent.checkpoint()
        variable.reset(token)

    def check() -> None:
        variable.reset(aevent.await_(set_it()))
        aevent.await_(reset(variable.set("y")))
        assert variable.get() == "unset"

    in_each_kind_of_task(run, check)


def test_the_context_is_the_one_of_a_call_by_context_run(run: Run) -> None:
    async def set_it() -> None:
        await aevent.checkpoint()
        assert variable.get() == "inside"
        variable.set("awaited")

    def inside() -> None:
        variable.set("inside")
        aevent.await_(set_it())

    def check() -> None:
        context = contextvars.copy_context()
        context.run(inside)
        assert context[variable] == "awaited"
        assert variable.get() == "unset"

    in_each_kind_of_task(run, check)


def test_sync_code_in_awaited_code_has_the_same_context(run: Run) -> None:
    async def inner() -> None:
        variable.set("innermost")
        await aevent.checkpoint()

    async def outer() -> None:
        await aevent.checkpoint()
        sync()

    def sync() -> None:
        time.sleep(0)
        aevent.await_(inner())

    def check() -> None:
        variable.set("before")
        aevent.await_(outer())
        assert variable.get() == "innermost"

    in_each_kind_of_task(run, check)


def test_a_context_is_the_callers_again_when_awaited_code_fails_or_is_cancelled(run: Run) -> None:
    async def fail() -> None:
        variable.set("failed")
        await aevent.checkpoint()
        raise Boom

    async def wait() -> None:
        variable.set("waits")
        await aevent.sleep_forever()

    def check() -> None:
        with pytest.raises(Boom):
            aevent.await_(fail())
        assert variable.get() == "failed"
        with aevent.CancelScope() as scope:
            scope.cancel()
            aevent.await_(wait())
        assert variable.get() == "waits"
        token = variable.set("again")
        variable.reset(token)

    in_each_kind_of_task(run, check)


# --- which task awaits ---


def test_everything_that_a_thread_awaits_runs_in_one_host_task(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")

    async def task() -> int:
        await anyio.lowlevel.checkpoint()
        return anyio.get_current_task().id

    def main() -> None:
        mine = {aevent.await_(task()) for _ in range(3)}
        others: set[int] = set()
        thread = threading.Thread(target=lambda: others.add(aevent.await_(task())))
        thread.start()
        thread.join()
        mine.add(aevent.await_(task()))
        assert len(mine) == 1 and len(others) == 1
        assert mine != others

    run(main)


def test_the_task_that_awaits_for_a_thread_ends_with_it(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")

    def host_tasks() -> int:
        if backend == "trio":
            import trio

            return trio.lowlevel.current_statistics().tasks_living
        import asyncio

        return len(asyncio.all_tasks())

    async def main() -> None:
        before = host_tasks()
        async with aevent.TaskGroup() as group:
            for _ in range(5):
                group.spawn(aevent.await_, aevent.sleep(0))
        while host_tasks() != before:
            await aevent.sleep(0.001)

    run(main)


def test_a_thread_that_awaits_in_a_handler_while_it_awaits(run: Run) -> None:
    import signal

    seen: list[str] = []

    async def note() -> None:
        await aevent.checkpoint()
        seen.append("handled")

    def handler(number: int, frame: Any) -> None:
        aevent.await_(note())

    async def wait() -> str:
        signal.raise_signal(signal.SIGUSR1)
        while not seen:
            await aevent.sleep(0.001)
        return "done"

    def main() -> None:
        former = signal.signal(signal.SIGUSR1, handler)
        try:
            assert aevent.await_(wait()) == "done"
        finally:
            signal.signal(signal.SIGUSR1, former)
        assert seen == ["handled"]

    run(main)


# --- functions ---


def test_autoawait(run: Run) -> None:
    @aevent.autoawait
    async def add(one: int, *, two: int) -> int:
        "Adds."
        await aevent.checkpoint()
        return one + two

    def check() -> None:
        assert add(1, two=2) == 3

    in_each_kind_of_task(run, check)
    assert add.__doc__ == "Adds."


def twice(fn: Callable[..., Any]) -> Callable[..., Any]:
    def decorated(*args: Any) -> list[Any]:
        time.sleep(0)
        return [fn(*args), fn(*args)]

    return decorated


def test_a_synchronous_decorator_of_an_asynchronous_function(run: Run) -> None:
    @aevent.decorate_as_sync(twice)
    async def double(number: int) -> Any:
        await aevent.checkpoint()
        return 2 * number

    async def main() -> None:
        assert await double(4) == [8, 8]

    run(main)
    assert double.__name__ == "double"


# --- portals ---


def test_with_portal_run_in_a_hosts_own_task(run_host: Run) -> None:
    def sync(number: int) -> int:
        time.sleep(0.001)
        aevent.await_(anyio.sleep(0))
        return number

    async def with_it(number: int, *, more: int) -> int:
        assert aevent.has_portal()
        return sync(number) + more

    async def main() -> None:
        async with aevent.runner():
            assert not aevent.has_portal()
            assert await aevent.with_portal_run(with_it, 1, more=2) == 3
            assert not aevent.has_portal()
            assert await aevent.with_portal_run_sync(sync, 5) == 5
            with pytest.raises(Boom):
                await aevent.with_portal_run(fails)
            with anyio.move_on_after(0.002) as scope:
                await aevent.with_portal_run_sync(time.sleep, 10)
            assert scope.cancelled_caught
            assert not aevent.has_portal()

    async def fails() -> None:
        time.sleep(0)
        raise Boom

    run_host(main)


def start_in_host(host: str, *fns: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Runs them as tasks of the host's, side by side, by its own means."""

    async def start() -> None:
        if host.endswith("trio"):
            async with trio.open_nursery() as nursery:
                for fn in fns:
                    nursery.start_soon(fn)
        else:
            await asyncio.gather(*(asyncio.create_task(fn()) for fn in fns))

    return start()


def test_with_portal_run_tree_reaches_children_and_theirs(run_host: Run, host: str) -> None:
    log: list[str] = []

    async def grandchild() -> None:
        time.sleep(0.001)
        log.append("grandchild")

    async def child() -> None:
        time.sleep(0.001)
        log.append("child")
        await start_in_host(host, grandchild)

    async def call(number: int) -> int:
        time.sleep(0.001)
        await start_in_host(host, child, child)
        return number

    async def outsider() -> None:
        while len(log) < 8:
            assert not aevent.has_portal()
            await start_in_host(host, without)
            await anyio.sleep(0.001)

    async def without() -> None:
        assert not aevent.has_portal()

    async def caller() -> None:
        assert await aevent.with_portal_run_tree(call, 3) == 3
        assert not aevent.has_portal()
        await start_in_host(host, without)

    async def main() -> None:
        async with aevent.runner():
            # One ends while the other goes on.
            await start_in_host(host, caller, caller, outsider)
            with pytest.raises(Boom):
                await aevent.with_portal_run_tree(fails)
            await start_in_host(host, without)
            if not host.endswith("trio"):
                assert asyncio.get_running_loop().get_task_factory() is None

    async def fails() -> None:
        raise Boom

    run_host(main)
    assert sorted(log) == ["child"] * 4 + ["grandchild"] * 4


def test_with_portal_run_tree_on_any_backend(run: Run) -> None:
    def sync() -> str:
        time.sleep(0.001)
        return "slept"

    async def call() -> str:
        return sync()

    async def main() -> None:
        assert await aevent.with_portal_run_tree(call) == "slept"

    run(main)


def test_a_decorator_works_in_a_task_without_a_portal(run_host: Run) -> None:
    @aevent.decorate_as_sync(twice)
    async def double(number: int) -> Any:
        await anyio.sleep(0.0005)
        return 2 * number

    async def main() -> None:
        async with aevent.runner():
            assert await double(4) == [8, 8]

    run_host(main)


def test_with_portal_run_in_a_task_that_has_one(run: Run) -> None:
    async def main() -> None:
        assert aevent.has_portal()
        await aevent.ensure_portal()
        assert await aevent.with_portal_run_sync(lambda: (time.sleep(0), 5)[1]) == 5
        assert aevent.has_portal()

    run(main)
    assert not aevent.has_portal()


@asynccontextmanager
async def task_of_the_host(fn: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs it beside the body, started by the host's own means: nothing gives it a portal."""
    if sniffio.current_async_library() == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fn)
            yield
    else:
        task = asyncio.create_task(fn())
        yield
        await task


def test_a_portal_bestowed_on_a_task_that_waits(run_host: Run, host: str) -> None:
    started: list[Any] = []
    done: list[bool] = []
    bestowed = anyio.Event()

    async def other() -> None:
        if sniffio.current_async_library() == "trio":
            started.append(trio.lowlevel.current_task())
        else:
            started.append(asyncio.current_task())
        assert not aevent.has_portal()
        await bestowed.wait()
        assert aevent.has_portal()
        time.sleep(0.001)
        done.append(True)

    async def main() -> None:
        async with aevent.runner():
            async with task_of_the_host(other):
                while not started:
                    await anyio.sleep(0)
                assert not aevent.has_portal(started[0])
                aevent.bestow_portal(started[0])
                aevent.bestow_portal(started[0])
                assert aevent.has_portal(started[0])
                bestowed.set()
            with pytest.raises(RuntimeError, match="is no task of"):
                aevent.bestow_portal(5)
        assert done == [True]

    run_host(main)


def test_bestow_portal_outside_a_runner_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="needs a runner on asyncio or trio"):
        aevent.bestow_portal(object())


def test_a_coroutine_that_is_never_begun_leaves_no_warning(run: Run) -> None:
    async def never() -> None:
        raise AssertionError("it was begun")

    def check() -> None:
        with aevent.native():
            with pytest.raises(RuntimeError):
                aevent.await_(never())
        with pytest.raises(RuntimeError):
            coroutine = never()
            coroutine.close()
            aevent.await_(coroutine)

    in_each_kind_of_task(run, check)
    gc.collect()
