"""The primitives as the standard library's: timeouts, results and errors."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent

Run = Callable[..., Any]


@pytest.fixture(params=["outside", "native", "asyncio", "uvloop", "trio"])
def where(request: pytest.FixtureRequest, run_on: Callable[[str], Run]) -> Run:
    """Runs a function in a task, or outside any, where the same objects serve OS threads."""
    if request.param == "outside":
        return lambda fn: fn()
    return run_on(request.param)


TIMED: dict[str, Callable[[float], object]] = {
    "lock": lambda timeout: _held(threading.Lock()).acquire(timeout=timeout),
    "semaphore": lambda timeout: threading.Semaphore(0).acquire(timeout=timeout),
    "event": lambda timeout: threading.Event().wait(timeout),
}


def _held(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize("name", list(TIMED))
def test_a_wait_with_timeout_ends_with_false_after_it(
    where: Callable[..., None], name: str
) -> None:
    def main() -> None:
        begin = time.monotonic()
        assert TIMED[name](0.01) is False
        assert 0.0095 <= time.monotonic() - begin < 30
        assert TIMED[name](0) is False

    where(main)


def test_queue_timeouts_raise_empty_and_full(where: Callable[..., None]) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue(1)
        simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        for get in (items.get, simple.get):
            with pytest.raises(queue.Empty):
                get(timeout=0.002)
            with pytest.raises(queue.Empty):
                get(block=False)
        items.put(1)
        with pytest.raises(queue.Full):
            items.put(2, timeout=0.002)
        with pytest.raises(queue.Full):
            items.put_nowait(2)

    where(main)


def test_condition_wait_with_timeout_takes_the_lock_again(where: Callable[..., None]) -> None:
    def main() -> None:
        condition = threading.Condition()
        with condition:
            assert condition.wait(0.002) is False
            assert condition._is_owned()  # type: ignore[attr-defined]
            assert condition.wait_for(lambda: False, 0.002) is False
            assert condition.wait_for(lambda: 7, 0.002) == 7

    where(main)


ERRORS: list[tuple[Callable[[], object], type[BaseException], str]] = [
    (lambda: threading.Lock().release(), RuntimeError, "release unlocked lock"),
    (lambda: threading.RLock().release(), RuntimeError, "cannot release un-acquired lock"),
    (lambda: threading.Condition().wait(), RuntimeError, "cannot wait on un-acquired lock"),
    (lambda: threading.Condition().notify(), RuntimeError, "cannot notify on un-acquired lock"),
    (lambda: threading.Semaphore(-1), ValueError, "semaphore initial value must be >= 0"),
    (
        lambda: threading.BoundedSemaphore(1).release(),
        ValueError,
        "Semaphore released too many times",
    ),
    (lambda: threading.Semaphore(0).release(0), ValueError, "n must be one or more"),
    (
        lambda: threading.Lock().acquire(False, 1),
        ValueError,
        "can't specify a timeout for a non-blocking call",
    ),
    (
        lambda: threading.Lock().acquire(True, -2),
        ValueError,
        "timeout value must be a non-negative number",
    ),
    (lambda: threading.Lock().acquire(True, 1e30), OverflowError, "timeout value is too large"),
    (lambda: queue.Queue().get(timeout=-1), ValueError, "'timeout' must be a non-negative number"),
    (
        lambda: queue.SimpleQueue().get(timeout=-1),
        ValueError,
        "'timeout' must be a non-negative number",
    ),
    (lambda: queue.Queue().task_done(), ValueError, r"task_done\(\) called too many times"),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_those_of_cpython(where: Callable[..., None], number: int) -> None:
    call, kind, message = ERRORS[number]

    def main() -> None:
        with pytest.raises(kind, match=message):
            call()

    where(main)


def test_rlock_of_another_task_cannot_be_released(run: Run) -> None:
    lock = threading.RLock()
    errors: list[str] = []

    def other() -> None:
        try:
            lock.release()
        except RuntimeError as error:
            errors.append(str(error))

    def main() -> None:
        with lock:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    run(main)
    assert errors == ["cannot release un-acquired lock"]


def test_a_lock_may_be_released_by_another_task(run: Run) -> None:
    lock = threading.Lock()

    def main() -> None:
        lock.acquire()
        threading.Thread(target=lock.release).start()
        assert lock.acquire(timeout=30)

    run(main)


def test_blocking_under_native_for_a_lock_of_ones_own_thread_is_refused(run: Run) -> None:
    """Its holder is a parked task of the thread that would block: nobody could ever release it."""
    lock = threading.Lock()
    held = threading.Event()
    go = threading.Event()

    def holder() -> None:
        with lock:
            held.set()
            go.wait()

    def main() -> None:
        thread = threading.Thread(target=holder)
        thread.start()
        held.wait()
        with aevent.native():
            with pytest.raises(RuntimeError, match=r"deadlock|never"):
                lock.acquire()
            with pytest.raises(RuntimeError, match=r"deadlock|never"):
                with lock:
                    pass
            assert lock.acquire(blocking=False) is False
            assert lock.acquire(timeout=0.001) is False
        go.set()
        thread.join()
        with lock:
            pass

    run(main)


def test_joining_a_green_thread_of_ones_own_loop_under_native_is_refused(run: Run) -> None:
    def main() -> None:
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        with aevent.native():
            with pytest.raises(RuntimeError, match=r"deadlock|never"):
                thread.join()
        go.set()
        thread.join()

    run(main)


def test_async_condition_wait_takes_the_lock_again_when_cancelled(run: Run) -> None:
    async def main() -> None:
        for lock in (threading.Lock(), threading.RLock()):
            condition = aevent.Condition(lock)
            async with condition:
                with aevent.move_on_after(0.002) as scope:
                    await condition.async_wait()
                assert scope.cancelled_caught
                assert condition._is_owned()
            assert lock.acquire(False)

    run(main)


def test_async_queue_timeouts(run: Run) -> None:
    async def main() -> None:
        items: Any = queue.Queue(1)
        with pytest.raises(queue.Empty):
            await items.async_get(timeout=0.002)
        await items.async_put(1)
        with pytest.raises(queue.Full):
            await items.async_put(2, timeout=0.002)
        assert await items.async_get() == 1
        items.task_done()
        await items.async_join()

    run(main)


def test_async_get_passes_a_cancellation_that_is_not_its_timeout_on(run: Run) -> None:
    async def main() -> None:
        items: Any = queue.Queue()
        with aevent.move_on_after(0.002) as scope:
            await items.async_get(timeout=3600)
        assert scope.cancelled_caught

    run(main)
