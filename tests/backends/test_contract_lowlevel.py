"""What libraries are built of: aevent.lowlevel, and how generators are closed."""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import sniffio

import aevent
from aevent import lowlevel
from tests.backends.contract import Run, Settle


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def pass_value(value: Any) -> Any:
    return value


def test_checkpoints_do_what_their_names_say(run: Run) -> None:
    async def main() -> None:
        log: list[str] = []

        async def other() -> None:
            log.append("other")

        for checkpoint, lets_run, raises in (
            (lowlevel.checkpoint, True, True),
            (lowlevel.checkpoint_if_cancelled, False, True),
            (lowlevel.cancel_shielded_checkpoint, True, False),
        ):
            log.clear()
            async with aevent.TaskGroup() as tg:
                tg.spawn(other)
                await checkpoint()
                await checkpoint()  # trio mixes the order
                assert bool(log) is lets_run, checkpoint
            with aevent.CancelScope() as scope:
                scope.cancel()
                await checkpoint()
            assert scope.cancelled_caught is raises, checkpoint

    run(main)


def test_the_running_task_and_its_family(run: Run, backend: str) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def child(parent: Any) -> None:
        task = lowlevel.current_task()
        assert lowlevel.task_name(task) == "a child"
        assert task.coro is not None
        if backend not in ("asyncio", "uvloop"):
            assert task.parent == parent
            assert task.context is not None and task.context[variable] == 1

    def thread() -> None:
        task = lowlevel.current_task()
        assert task.kind == "green" and task.coro is None
        assert lowlevel.task_name(task).endswith("thread")

    async def main() -> None:
        variable.set(1)
        me = lowlevel.current_task()
        assert me == lowlevel.current_task()
        assert me.kind == ("coroutine" if backend == "native" else "host")
        if backend == "native":
            assert lowlevel.task_name(me).endswith("main")
            assert lowlevel.current_root_task() == me and me.parent is None
        async with aevent.TaskGroup() as tg:
            tg.spawn(child, me, name="a child")
            tg.spawn(thread)

    run(main)
    with pytest.raises(RuntimeError, match="outside a task"):
        lowlevel.current_task()


def test_statistics_tell_of_the_loop(run: Run, backend: str) -> None:
    async def main() -> None:
        statistics = lowlevel.current_statistics()
        assert statistics.backend == ("asyncio" if backend == "uvloop" else backend)
        assert statistics.tasks_ready >= 0 and statistics.seconds_to_next_deadline > 0

    run(main)
    with pytest.raises(RuntimeError, match="no loop runs"):
        lowlevel.current_statistics()


def test_waiting_for_a_descriptor(
    run: Run, settle: Settle, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    log: list[str] = []

    async def wait(fd: Any) -> None:
        await aevent.wait_readable(fd)
        log.append("readable")

    def wait_in_thread() -> None:
        assert lowlevel.sync_wait_readable(ours)
        log.append("readable")

    async def main() -> None:
        await aevent.wait_writable(ours)
        assert lowlevel.sync_wait_writable(ours)
        assert not lowlevel.sync_wait_readable(ours, 0)
        async with aevent.TaskGroup() as tg:
            tg.spawn(wait, ours)
            tg.spawn(wait, ours.fileno())
            tg.spawn(wait_in_thread)
            await settle()
            assert not log
            theirs.send(b"x")
        assert log == ["readable"] * 3
        ours.recv(1)
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(wait, ours)
                await settle()
                scope.cancel()
        assert len(log) == 3

    run(main)


def test_a_descriptor_that_is_closed_ends_the_waits(
    run: Run, settle: Settle, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = pair

    async def main() -> None:
        async def wait() -> None:
            with pytest.raises(aevent.ClosedResourceError):
                await aevent.wait_readable(ours)

        for close in (lambda: aevent.notify_closing(ours), ours.close):
            async with aevent.TaskGroup() as tg:
                tg.spawn(wait)
                await settle()
                close()
        with pytest.raises((OSError, ValueError)):
            await aevent.wait_readable(ours)

    run(main)


def test_what_cannot_be_waited_for_is_refused(run: Run, tmp_path: Any) -> None:
    async def main() -> None:
        with open(tmp_path / "file", "wb") as file:
            with pytest.raises(PermissionError):
                await aevent.wait_readable(file)
        fd = os.dup(1)
        os.close(fd)
        with pytest.raises(OSError):
            await aevent.wait_writable(fd)

    run(main)


def test_a_parker_keeps_one_unpark(run: Run, settle: Settle) -> None:
    async def main() -> None:
        parker = lowlevel.Parker()
        parker.unpark()
        parker.unpark()
        await parker.park()
        passed: list[int] = []

        async def park() -> None:
            await parker.park()
            passed.append(1)

        async with aevent.TaskGroup() as tg:
            tg.spawn(park)
            await settle()
            assert not passed
            await aevent.to_thread.run_sync(parker.unpark)
        with aevent.CancelScope() as scope:
            scope.cancel()
            parker.unpark()
            await parker.park()
        assert parker.sync_park(0)
        assert not parker.sync_park(0)

    run(main)


def test_a_system_task_ends_with_the_run(run: Run) -> None:
    log: list[str] = []

    async def serve() -> None:
        try:
            log.append("began")
            await aevent.sleep_forever()
        finally:
            log.append("ended")

    async def main() -> None:
        lowlevel.spawn_system_task(serve)
        while not log:
            await aevent.checkpoint()

    run(main)
    assert log == ["began", "ended"]


def test_async_methods_can_be_spawned(run: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        event, lock, semaphore = aevent.Event(), aevent.Lock(), aevent.Semaphore(2)
        limiter = aevent.CapacityLimiter(5)
        queue: aevent.SimpleQueue[int] = aevent.SimpleQueue()
        send, receive = aevent.open_memory_channel(0)
        async with aevent.TaskGroup() as tg:
            tg.spawn(event.async_wait)
            tg.spawn(lock.async_acquire)
            tg.spawn(semaphore.async_acquire)
            tg.spawn(limiter.acquire_on_behalf_of, 1)
            tg.spawn(queue.async_get)
            tg.spawn(send.send, 1)
            tg.spawn(receive.receive)
            tg.start_soon(aevent.wait_writable, pair[0])
            queue.put(1)
            event.set()
        assert lock.locked() and semaphore._value == 1 and limiter.borrowed_tokens == 1

    run(main)


def test_sniffio_names_the_loop(run: Run, backend: str) -> None:
    names: list[str | None] = []

    def thread() -> None:
        try:
            names.append(sniffio.current_async_library())
        except sniffio.AsyncLibraryNotFoundError:
            names.append(None)

    async def main() -> None:
        name = "asyncio" if backend == "uvloop" else backend.replace("native", "aevent")
        assert sniffio.current_async_library() == name
        async with aevent.TaskGroup() as tg:
            tg.spawn(thread)
        # A real thread would be told that it runs no loop, and so is a green one.
        assert names == [None]

    run(main)
    with pytest.raises(sniffio.AsyncLibraryNotFoundError):
        sniffio.current_async_library()


# --- async generators ---


async def numbers(log: list[str], wait: bool = False) -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        if wait:
            try:
                await aevent.sleep(0)
            except BaseException as error:
                log.append(type(error).__name__)
                raise
        log.append("closed")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_generator_that_is_dropped_is_closed_in_the_loop(run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async for _ in numbers(log):
            break
        gc.collect()
        while not log:
            await aevent.checkpoint()

    run(main)
    assert log == ["closed"]


def test_a_generator_that_is_left_is_closed_at_the_end_of_the_run(run: Run) -> None:
    log: list[str] = []

    async def main() -> AsyncGenerator[int, None]:
        generator = numbers(log)
        assert await anext(generator) == 1
        return generator

    generator = run(main)
    assert log == ["closed"]
    del generator


def test_on_the_native_loop_a_dropped_generator_cannot_wait_and_is_warned_about() -> None:
    log: list[str] = []

    async def main() -> None:
        with pytest.warns(ResourceWarning, match=r"numbers.*collected before it was exhausted"):
            async for _ in numbers(log, True):
                break
            gc.collect()
        while not log:
            await aevent.checkpoint()

    aevent.run(main, backend="native")
    assert log == ["Cancelled"]


def test_what_a_generator_raises_while_it_is_closed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise ValueError("from the generator")

    async def main() -> Any:
        generator = bad()
        await anext(generator)
        return generator

    with caplog.at_level(logging.ERROR, "aevent.async_generator_errors"):
        aevent.run(main, backend="native")
    assert "from the generator" in caplog.text


def test_hooks_are_put_back_and_real_threads_have_none(run: Run) -> None:
    before = sys.get_asyncgen_hooks()

    async def main() -> None:
        assert await aevent.to_thread.run_sync(sys.get_asyncgen_hooks) == (None, None)

    run(main)
    assert sys.get_asyncgen_hooks() == before


def test_a_loop_in_a_green_thread_has_hooks_of_its_own(run: Run) -> None:
    import asyncio

    log: list[str] = []

    async def main() -> None:
        parked, go = threading.Event(), threading.Event()

        async def inner() -> None:
            await anext(numbers(log))
            parked.set()
            while not go.is_set():
                await asyncio.sleep(0.001)

        def thread() -> None:
            asyncio.run(inner())

        hooks = sys.get_asyncgen_hooks()
        async with aevent.TaskGroup() as tg:
            tg.spawn(thread)
            await parked.async_wait()  # type: ignore[attr-defined]
            assert sys.get_asyncgen_hooks() == hooks
            go.set()
        assert sys.get_asyncgen_hooks() == hooks
        assert log == ["closed"]

    run(main)
