"""What every backend must do: running programs, and being the home of their green threads."""

from __future__ import annotations

import contextvars
import socket
import threading
import time

import pytest

import aevent
from tests.backends.contract import Boom, Run


async def add(a: int, b: int) -> int:
    await aevent.checkpoint()
    return a + b


def add_sync(a: int, b: int) -> int:
    time.sleep(0)
    return a + b


def test_run_returns_what_an_async_function_returns(run: Run) -> None:
    assert run(add, 1, 2) == 3


def test_run_returns_what_a_sync_function_returns(run: Run) -> None:
    assert run(add_sync, 1, 2) == 3


def test_run_takes_callables_that_are_no_functions(run: Run) -> None:
    import functools

    class Adder:
        async def __call__(self, a: int) -> int:
            return await add(a, 10)

    assert run(functools.partial(add, 5), 6) == 11
    assert run(Adder(), 1) == 11


@pytest.mark.parametrize("kind", [Boom, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("park", [False, True], ids=["at_once", "after_parking"])
def test_run_raises_the_very_exception_of_main(
    run: Run, kind: type[BaseException], park: bool
) -> None:
    error = kind("x")

    def sync() -> None:
        if park:
            time.sleep(0.001)
        raise error

    async def main() -> None:
        if park:
            await aevent.sleep(0.001)
        raise error

    for fn in (sync, main):
        with pytest.raises(kind) as caught:
            run(fn)
        assert caught.value is error


def test_run_can_be_repeated_with_other_backends_in_one_process() -> None:
    pytest.importorskip("trio")
    results = [
        aevent.run(fn, 1, 1, backend=name)
        for fn in (add, add_sync)
        for name in ("native", "asyncio", "trio", "asyncio", "native", "trio")
    ]
    assert results == [2] * 12


def test_run_inside_a_running_loop_says_what_to_do(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="whose loop is running already"):
            aevent.run(add, 1, 2)

    run(main)

    def main_sync() -> None:
        with pytest.raises(RuntimeError, match="whose loop is running already"):
            aevent.run(add, 1, 2)

    run(main_sync)


def test_run_waits_for_threads_that_are_no_daemons(run: Run) -> None:
    done: list[str] = []

    def worker() -> None:
        time.sleep(0.02)
        done.append("worker")

    async def main() -> None:
        threading.Thread(target=worker).start()

    def main_sync() -> None:
        threading.Thread(target=worker).start()

    run(main)
    run(main_sync)
    assert done == ["worker", "worker"]


def test_run_cancels_daemons_and_waits_for_their_cleanup(run: Run) -> None:
    log: list[str] = []

    def worker() -> None:
        try:
            time.sleep(3600)
        finally:
            with aevent.CancelScope(shield=True):
                time.sleep(0.001)
            log.append("cleaned up")

    async def main() -> None:
        threading.Thread(target=worker, daemon=True).start()
        time.sleep(0.001)
        log.append("main ends")

    def main_sync() -> None:
        threading.Thread(target=worker, daemon=True).start()
        time.sleep(0.001)
        log.append("main ends")

    run(main)
    run(main_sync)
    assert log == ["main ends", "cleaned up"] * 2


def test_daemons_live_as_long_as_threads_that_are_none(run: Run) -> None:
    log: list[str] = []
    served = threading.Event()

    def daemon() -> None:
        time.sleep(0.005)
        log.append("daemon")
        served.set()

    def worker() -> None:
        served.wait()
        log.append("worker")

    def main() -> None:
        threading.Thread(target=daemon, daemon=True).start()
        threading.Thread(target=worker).start()

    run(main)
    assert log == ["daemon", "worker"]


def test_threads_are_waited_for_when_main_fails(run: Run) -> None:
    done: list[str] = []

    def worker() -> None:
        time.sleep(0.005)
        done.append("worker")

    def main() -> None:
        threading.Thread(target=worker).start()
        raise Boom

    with pytest.raises(Boom):
        run(main)
    assert done == ["worker"]


def test_a_sync_call_in_async_main_parks_the_task_and_not_the_loop(run: Run) -> None:
    beats = 0

    async def heartbeat() -> None:
        nonlocal beats
        while True:
            await aevent.sleep(0.001)
            beats += 1

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(heartbeat)
            before = beats
            # Real sleeps are the subject. If they stopped the loop, this would never end.
            while beats - before < 5:
                time.sleep(0.01)
            group.cancel_scope.cancel()

    run(main)


def test_recv_parks_the_green_thread_and_not_the_others(run: Run) -> None:
    left, right = socket.socketpair()
    log: list[str] = []

    def reader() -> None:
        log.append("reads")
        log.append(left.recv(10).decode())

    def writer() -> None:
        log.append("writes")
        right.sendall(b"hello")

    def main() -> None:
        first, second = threading.Thread(target=reader), threading.Thread(target=writer)
        first.start()
        second.start()
        first.join()
        second.join()

    with left, right:
        run(main)
    assert log == ["reads", "writes", "hello"]


def test_the_context_is_the_same_object_on_both_sides_of_sync_code(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def sync() -> None:
        variable.set("by sync code")
        time.sleep(0.001)
        assert variable.get() == "by sync code"

        async def inner() -> None:
            assert variable.get() == "by sync code"
            await aevent.sleep(0.001)
            variable.set("by awaited code")

        aevent.await_(inner())
        assert variable.get() == "by awaited code"

    async def main() -> None:
        variable.set("by main")
        await aevent.checkpoint()
        assert variable.get() == "by main"
        sync()
        assert variable.get() == "by awaited code"
        await aevent.sleep(0.001)
        assert variable.get() == "by awaited code"

    run(main)
    assert variable.get() == "unset"


def test_threads_start_with_an_empty_context_and_children_with_a_copy(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: dict[str, str] = {}

    def note(key: str) -> None:
        seen[key] = variable.get()
        variable.set(f"changed by {key}")
        time.sleep(0.001)
        assert variable.get() == f"changed by {key}"

    async def note_async() -> None:
        note("async child")

    async def main() -> None:
        variable.set("main's")
        async with aevent.TaskGroup() as group:
            group.spawn(note, "green child")
            group.spawn(note_async)
            thread = threading.Thread(target=note, args=("thread",))
            thread.start()
            thread.join()
        assert variable.get() == "main's"

    run(main)
    assert seen == {"green child": "main's", "async child": "main's", "thread": "unset"}


def test_native_and_patched_nest_and_belong_to_the_task(run: Run) -> None:
    states: list[bool] = []

    def other() -> None:
        from aevent import _core

        states.append(_core.in_task())

    def main() -> None:
        from aevent import _core

        def cooperates() -> bool:
            return _core.in_task()

        assert cooperates()
        with aevent.native():
            assert not cooperates()
            with aevent.native():
                assert not cooperates()
                with aevent.patched():
                    assert cooperates()
                    thread = threading.Thread(target=other)
                    thread.start()
                    thread.join()
                assert not cooperates()
            assert not cooperates()
        assert cooperates()

    run(main)
    assert states == [True]


def test_native_blocks_the_loop(run: Run) -> None:
    beats: list[int] = []

    def heartbeat() -> None:
        while True:
            time.sleep(0.001)
            beats.append(1)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(heartbeat)
            await aevent.sleep(0.005)
            with aevent.native():
                before = len(beats)
                time.sleep(0.02)
                assert len(beats) == before
            group.cancel_scope.cancel()

    run(main)


def test_green_threads_see_no_running_asyncio_loop(run: Run) -> None:
    import asyncio

    def look() -> None:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            time.sleep(0.001)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(look)
            thread = threading.Thread(target=look)
            thread.start()
            await aevent.sleep(0.002)
            thread.join()

    run(main)
    run(look)


def test_tasks_of_asyncio_see_their_loop_also_after_sync_calls() -> None:
    import asyncio

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        time.sleep(0.002)
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task

    aevent.run(main, backend="asyncio")


def test_identity_of_the_main_task_is_the_main_thread(run: Run) -> None:
    async def main() -> None:
        assert threading.current_thread() is threading.main_thread()

    run(main)

    def main_sync() -> None:
        assert threading.current_thread() is threading.main_thread()
        assert threading.get_ident() == threading.main_thread().ident

    run(main_sync)
