"""Programs that a host's own `run` has started: `runner()` and `per_task()`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import sniffio

import aevent
from tests.backends.contract import Boom

RunHost = Callable[..., Any]


def test_runner_waits_for_threads_and_cancels_daemons(run_host: RunHost) -> None:
    log: list[str] = []
    body_ends = threading.Event()

    def worker() -> None:
        body_ends.wait()
        time.sleep(0.005)
        log.append("worker")

    def daemon() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("daemon")

    async def main() -> str:
        await anyio.sleep(0)
        async with aevent.runner():
            await aevent.per_task()
            threading.Thread(target=daemon, daemon=True).start()
            threading.Thread(target=worker).start()
            log.append("body")
            body_ends.set()
        log.append("left")
        await anyio.sleep(0)
        return "result"

    assert run_host(main) == "result"
    assert log == ["body", "worker", "daemon", "left"]


def test_runner_left_by_an_exception_cancels_its_threads(run_host: RunHost) -> None:
    log: list[str] = []

    def worker() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("worker")

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            threading.Thread(target=worker).start()
            await anyio.sleep(0.001)
            raise Boom

    with pytest.raises(Boom):
        run_host(main)
    assert log == ["worker"]


def test_runners_nest_and_each_waits_for_its_own(run_host: RunHost) -> None:
    log: list[str] = []
    outer_may_end = threading.Event()

    def outer() -> None:
        outer_may_end.wait()
        log.append("outer thread")

    def inner() -> None:
        time.sleep(0.001)
        log.append("inner thread")

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            threading.Thread(target=outer).start()
            async with aevent.runner():
                threading.Thread(target=inner).start()
            log.append("inner left")
            outer_may_end.set()
        log.append("outer left")

    run_host(main)
    assert log == ["inner thread", "inner left", "outer thread", "outer left"]


def test_runner_can_be_entered_again_and_in_another_loop(run_host: RunHost) -> None:
    async def once() -> None:
        async with aevent.runner():
            await aevent.per_task()
            time.sleep(0.001)

    async def main() -> None:
        await once()
        await once()

    run_host(main)
    run_host(main)


def test_per_task_lets_the_running_main_task_call_sync_code(run_host: RunHost) -> None:
    beats = 0

    async def heartbeat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.001)
            beats += 1

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            async with anyio.create_task_group() as group:
                group.start_soon(heartbeat)
                await anyio.sleep(0.002)
                before = beats
                # Real sleeps are the subject. If they stopped the loop, this would never end.
                while beats - before < 5:
                    time.sleep(0.01)
                await anyio.sleep(0.001)
                group.cancel_scope.cancel()

    run_host(main)


def test_per_task_lets_tasks_of_a_host_group_call_sync_code_each(run_host: RunHost) -> None:
    left, right = socket.socketpair()
    received: list[bytes] = []

    async def reader() -> None:
        await aevent.per_task()
        received.append(left.recv(10))

    async def writer() -> None:
        await anyio.sleep(0)
        await aevent.per_task()
        await aevent.per_task()
        time.sleep(0.001)
        right.sendall(b"x")

    async def main() -> None:
        async with aevent.runner():
            async with anyio.create_task_group() as group:
                group.start_soon(reader)
                group.start_soon(writer)

    with left, right:
        run_host(main)
    assert received == [b"x"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_per_task_in_a_task_that_create_task_made(loop: str) -> None:
    import asyncio

    async def child() -> int:
        await aevent.per_task()
        time.sleep(0.001)
        await asyncio.sleep(0.001)
        time.sleep(0.001)
        task = asyncio.current_task()
        assert task is not None and task.get_name() == "child"
        return 7

    async def main() -> int:
        async with aevent.runner():
            task = asyncio.create_task(child(), name="child")
            assert await asyncio.wait_for(task, 30) == 7
            results = await asyncio.gather(child_named(), child_named())
            return sum(results)

    async def child_named() -> int:
        await aevent.per_task()
        time.sleep(0.001)
        return 1

    if loop == "uvloop":
        assert pytest.importorskip("uvloop").run(main()) == 2
    else:
        assert asyncio.run(main()) == 2


def test_per_task_in_a_python_task_of_asyncio() -> None:
    import asyncio

    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    async def child() -> int:
        await aevent.per_task()
        time.sleep(0.001)
        return 7

    async def main() -> int:
        async with aevent.runner():
            result: int = await python_task(child(), loop=asyncio.get_running_loop())
            return result

    assert asyncio.run(main()) == 7


def test_per_task_in_a_trio_nursery_task_and_in_trio_start() -> None:
    trio = pytest.importorskip("trio")

    async def child(results: list[int]) -> None:
        await aevent.per_task()
        time.sleep(0.001)
        results.append(7)

    async def service(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        await aevent.per_task()
        time.sleep(0.001)
        task_status.started("up")
        time.sleep(0.001)

    async def main() -> None:
        results: list[int] = []
        async with aevent.runner():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child, results)
                assert await nursery.start(service) == "up"
        assert results == [7]

    trio.run(main)


def test_per_task_outside_a_runner_says_what_to_do(run_host: RunHost) -> None:
    async def main() -> None:
        with pytest.raises(aevent.AeventError, match=r"async with aevent\.runner\(\)"):
            await aevent.per_task()

    run_host(main)


def test_runner_outside_any_loop_says_what_to_do() -> None:
    async def main() -> None:
        async with aevent.runner():
            pass

    coroutine = main()
    with pytest.raises(aevent.AeventError, match=r"use aevent\.run\(\)"):
        coroutine.send(None)


def test_sniffio_names_the_host_in_tasks_with_a_portal(run_host: RunHost, host: str) -> None:
    name = host.rpartition("-")[2]
    name = "asyncio" if name == "uvloop" else name

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            assert sniffio.current_async_library() == name
            time.sleep(0.001)
            assert sniffio.current_async_library() == name
            await anyio.sleep(0)
            assert sniffio.current_async_library() == name

    run_host(main)


def test_task_group_in_a_host_program_needs_no_per_task(run_host: RunHost) -> None:
    log: list[str] = []

    def green() -> None:
        time.sleep(0.002)
        log.append("green")

    async def child() -> None:
        time.sleep(0.001)
        log.append("async")

    async def main() -> None:
        async with aevent.runner():
            async with aevent.TaskGroup() as group:
                group.spawn(green)
                group.spawn(child)

    run_host(main)
    assert sorted(log) == ["async", "green"]


def test_cancelling_a_host_scope_reaches_a_sync_call_in_its_task(run_host: RunHost) -> None:
    log: list[str] = []

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            with anyio.move_on_after(0.005) as scope:
                try:
                    time.sleep(3600)
                finally:
                    log.append("finally")
            assert scope.cancelled_caught

    run_host(main)
    assert log == ["finally"]


def test_host_cancellation_reaches_green_children_of_a_task_group(run_host: RunHost) -> None:
    log: list[str] = []

    def child(name: str) -> None:
        try:
            time.sleep(3600)
        finally:
            log.append(name)

    async def main() -> None:
        async with aevent.runner():
            with anyio.move_on_after(0.005) as scope:
                async with aevent.TaskGroup() as group:
                    group.spawn(child, "a")
                    group.spawn(child, "b")
            assert scope.cancelled_caught

    run_host(main)
    assert sorted(log) == ["a", "b"]


def test_host_cancellation_of_the_task_in_a_runner_cancels_its_threads(run_host: RunHost) -> None:
    log: list[str] = []

    def worker() -> None:
        log.append("begins")
        try:
            time.sleep(3600)
        finally:
            log.append("ends")

    async def cancel_when_it_runs(scope: anyio.CancelScope) -> None:
        while not log:
            await anyio.sleep(0)
        scope.cancel()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(cancel_when_it_runs, scope)
                async with aevent.runner():
                    await aevent.per_task()
                    threading.Thread(target=worker).start()
                    await anyio.sleep(3600)
            assert scope.cancelled_caught

    run_host(main)
    assert log == ["begins", "ends"]


def test_cancelling_an_asyncio_task_in_a_sync_call() -> None:
    import asyncio

    log: list[str] = []

    async def child() -> None:
        await aevent.per_task()
        log.append("ready")
        try:
            time.sleep(3600)
        finally:
            log.append("finally")

    async def main() -> None:
        async with aevent.runner():
            task = asyncio.create_task(child())
            while not log:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())
    assert log == ["ready", "finally"]


def test_swallowing_an_asyncio_cancellation_lets_the_task_go_on_as_in_asyncio() -> None:
    import asyncio

    log: list[str] = []

    async def child() -> str:
        await aevent.per_task()
        log.append("ready")
        try:
            time.sleep(3600)
        except asyncio.CancelledError:
            pass
        time.sleep(0.001)
        return "went on"

    async def main() -> str:
        async with aevent.runner():
            task = asyncio.create_task(child())
            while not log:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            return await task

    assert asyncio.run(main()) == "went on"
