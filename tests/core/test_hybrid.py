"""One lock, event, condition or queue, waited for by green threads, async tasks and OS threads."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aevent

Run = Callable[..., Any]
Settle = Callable[[], Any]
KINDS = ("green", "async", "system")


class SystemThreads:
    """Real threads, whoever starts them; joined at the end of the test."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, fn: Callable[..., Any], *args: Any) -> threading.Thread:
        def catch() -> None:
            try:
                fn(*args)
            except BaseException as error:
                self.errors.append(error)

        thread: threading.Thread = threading.Thread._aevent_orig(target=catch)  # type: ignore[attr-defined]
        thread.start()
        self.threads.append(thread)
        return thread

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def system_threads() -> Iterator[SystemThreads]:
    threads = SystemThreads()
    yield threads
    threads.join()


def spawn(
    group: aevent.TaskGroup, threads: SystemThreads, kind: str, sync: Callable[[], Any], async_: Any
) -> aevent.CancelScope | None:
    if kind == "green":
        return group.spawn(sync)
    if kind == "async":
        return group.spawn(async_)
    threads.start(sync)
    return None


async def until(condition: Callable[[], bool]) -> None:
    """Waits for an OS thread to get somewhere, which nothing here is told of."""
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        await aevent.sleep(0.0005)


def test_lock_is_given_to_all_kinds_in_the_order_of_their_asking(
    run: Run, system_threads: SystemThreads
) -> None:
    order: list[int] = []
    kinds = [*KINDS, *reversed(KINDS), *KINDS]

    async def main() -> None:
        lock = aevent.Lock()
        await lock.async_acquire()
        async with aevent.TaskGroup() as group:
            for number, kind in enumerate(kinds):

                def sync(number: int = number) -> None:
                    with lock:
                        order.append(number)

                async def async_(number: int = number) -> None:
                    async with lock:
                        order.append(number)

                spawn(group, system_threads, kind, sync, async_)
                await until(lambda number=number: lock._waiters() == number + 1)  # type: ignore[misc]
            lock.release()
        await until(lambda: len(order) == len(kinds))

    run(main)
    assert order == list(range(len(kinds)))


def test_semaphore_is_given_to_all_kinds_in_the_order_of_their_asking(
    run: Run, system_threads: SystemThreads
) -> None:
    order: list[int] = []
    kinds = [*KINDS, *reversed(KINDS)]

    async def main() -> None:
        semaphore = aevent.Semaphore(0)
        async with aevent.TaskGroup() as group:
            for number, kind in enumerate(kinds):

                def sync(number: int = number) -> None:
                    semaphore.acquire()
                    order.append(number)

                async def async_(number: int = number) -> None:
                    await semaphore.async_acquire()
                    order.append(number)

                spawn(group, system_threads, kind, sync, async_)
                await until(lambda number=number: semaphore._waiters() == number + 1)  # type: ignore[misc]
            for number in range(len(kinds)):
                semaphore.release()
                await until(lambda number=number: len(order) == number + 1)  # type: ignore[misc]

    run(main)
    assert order == list(range(len(kinds)))


def test_event_wakes_all_kinds(run: Run, system_threads: SystemThreads) -> None:
    woken: list[str] = []

    async def main() -> None:
        event = aevent.Event()
        async with aevent.TaskGroup() as group:
            for kind in KINDS * 3:

                def sync(kind: str = kind) -> None:
                    assert event.wait()
                    woken.append(kind)

                async def async_(kind: str = kind) -> None:
                    assert await event.async_wait()
                    woken.append(kind)

                spawn(group, system_threads, kind, sync, async_)
            await aevent.sleep(0.003)
            assert woken == []
            event.set()
        system_threads.join()

    run(main)
    assert sorted(woken) == sorted(KINDS * 3)


def test_an_event_set_by_an_os_thread_wakes_tasks(run: Run, system_threads: SystemThreads) -> None:
    async def main() -> None:
        for _ in range(50):
            event, answer = aevent.Event(), aevent.Event()

            def set_and_wait(event: aevent.Event = event, answer: aevent.Event = answer) -> None:
                event.set()
                answer.wait()

            system_threads.start(set_and_wait)
            async with aevent.TaskGroup() as group:
                group.spawn(event.wait)
                await event.async_wait()
            answer.set()

    run(main)


def test_condition_wakes_one_waiter_for_each_notification_of_all_kinds(
    run: Run, system_threads: SystemThreads
) -> None:
    order: list[int] = []
    kinds = [*KINDS, *reversed(KINDS)]

    async def main() -> None:
        condition = aevent.Condition()
        async with aevent.TaskGroup() as group:
            for number, kind in enumerate(kinds):

                def sync(number: int = number) -> None:
                    with condition:
                        assert condition.wait()
                        order.append(number)

                async def async_(number: int = number) -> None:
                    async with condition:
                        assert await condition.async_wait()
                        order.append(number)

                spawn(group, system_threads, kind, sync, async_)
                await until(lambda number=number: condition._waiting() == number + 1)  # type: ignore[misc]
            async with condition:
                condition.notify(2)
            await until(lambda: len(order) == 2)
            async with condition:
                condition.notify_all()
        system_threads.join()

    run(main)
    # Who came first is notified first; which kind of thread then runs first is open.
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order) == list(range(len(kinds)))


@pytest.mark.parametrize("make", [queue.SimpleQueue, queue.Queue])
def test_items_reach_all_kinds_and_none_is_lost(
    run: Run, system_threads: SystemThreads, make: Callable[[], Any]
) -> None:
    taken: list[int] = []

    async def main() -> None:
        items = make()
        async with aevent.TaskGroup() as group:

            def get() -> None:
                while (item := items.get()) is not None:
                    taken.append(item)

            async def get_async() -> None:
                while (item := await items.async_get()) is not None:
                    taken.append(item)

            for kind in KINDS * 2:
                spawn(group, system_threads, kind, get, get_async)

            def put(begin: int) -> None:
                for number in range(begin, begin + 100):
                    items.put(number)
                    if number % 10 == 0:
                        time.sleep(0)

            async def put_async(begin: int) -> None:
                for number in range(begin, begin + 100):
                    await items.async_put(number)

            async with aevent.TaskGroup() as producers:
                producers.spawn(put, 0)
                producers.spawn(put_async, 100)
                thread = system_threads.start(put, 200)
                await aevent.sleep(0.001)
            await until(lambda: not thread.is_alive())
            for _ in KINDS * 2:
                items.put(None)
        system_threads.join()

    run(main)
    assert sorted(taken) == list(range(300))


def test_rlock_excludes_all_kinds_and_is_reentrant_for_each(
    run: Run, system_threads: SystemThreads
) -> None:
    lock = aevent.RLock()
    inside = 0
    log: list[str] = []

    def enter(kind: str) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        log.append(kind)

    def sync(kind: str) -> None:
        nonlocal inside
        for _ in range(20):
            with lock:
                with lock:
                    enter(kind)
                    time.sleep(0.00001)
                    inside -= 1

    async def in_async() -> None:
        nonlocal inside
        for _ in range(20):
            async with lock:
                async with lock:
                    enter("async")
                    await aevent.checkpoint()
                    inside -= 1

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for kind in KINDS * 2:
                spawn(group, system_threads, kind, lambda kind=kind: sync(kind), in_async)  # type: ignore[misc]
        system_threads.join()

    run(main)
    assert {kind: log.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 40)


def test_threads_started_under_native_are_real_and_share_locks(run: Run) -> None:
    lock = threading.Lock()
    log: list[str] = []

    def real() -> None:
        with lock:
            log.append("real")

    def main() -> None:
        lock.acquire()
        with aevent.native():
            thread = threading.Thread(target=real)
            thread.start()
        assert thread.native_id != threading.main_thread().native_id
        time.sleep(0.001)
        log.append("main")
        lock.release()
        with aevent.native():
            thread.join()

    run(main)
    assert log == ["main", "real"]


def test_one_lock_is_shared_by_schedulers_of_different_backends() -> None:
    pytest.importorskip("trio")
    lock, count = aevent.Lock(), 0

    def work() -> None:
        nonlocal count
        for _ in range(100):
            with lock:
                before = count
                time.sleep(0)
                count = before + 1

    async def work_async() -> None:
        nonlocal count
        for _ in range(100):
            async with lock:
                before = count
                await aevent.checkpoint()
                count = before + 1

    def main() -> None:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def main_async() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(work)
            group.spawn(work_async)

    errors: list[BaseException] = []

    def run(fn: Callable[[], Any], name: str) -> None:
        try:
            aevent.run(fn, backend=name)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(fn, name))
        for fn in (main, main_async)
        for name in ("native", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert count == 6 * 200


def mix(seed: int) -> Iterator[float]:
    generator = random.Random(seed)
    while True:
        yield generator.random()


@pytest.mark.parametrize("seed", range(3))
def test_a_lock_is_never_lost_when_cancellation_races_with_its_release(
    run: Run, system_threads: SystemThreads, seed: int
) -> None:
    """Waiters with deadlines about as long as the lock is held: some get it, some are cancelled."""
    lock = aevent.Lock()
    holders = taken = 0

    def hold(seconds: float) -> None:
        nonlocal holders, taken
        holders += 1
        assert holders == 1
        taken += 1
        time.sleep(seconds)
        holders -= 1

    def green(chance: Iterator[float]) -> None:
        for _ in range(20):
            with aevent.move_on_after(next(chance) * 0.002):
                with lock:
                    with aevent.CancelScope(shield=True):
                        hold(next(chance) * 0.0005)

    async def in_async(chance: Iterator[float]) -> None:
        for _ in range(20):
            with aevent.move_on_after(next(chance) * 0.002):
                async with lock:
                    with aevent.CancelScope(shield=True):
                        hold(next(chance) * 0.0005)

    def system(chance: Iterator[float]) -> None:
        for _ in range(20):
            if lock.acquire(timeout=next(chance) * 0.002):
                hold(next(chance) * 0.0005)
                lock.release()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for number in range(4):
                group.spawn(green, mix(seed * 100 + number))
                group.spawn(in_async, mix(seed * 200 + number))
            for number in range(2):
                system_threads.start(system, mix(seed * 300 + number))
        system_threads.join()

    run(main)
    assert not lock.locked() and lock._waiters() == 0
    assert taken > 10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [queue.SimpleQueue, queue.Queue])
def test_no_item_and_no_wake_up_is_lost_when_cancellation_races(
    run: Run, system_threads: SystemThreads, make: Callable[[], Any], seed: int
) -> None:
    items = make()
    taken: list[int | None] = []

    def get(chance: Iterator[float]) -> None:
        item: int | None = 0
        while item is not None:
            with aevent.move_on_after(next(chance) * 0.0005):
                item = items.get()
                taken.append(item)

    async def get_async(chance: Iterator[float]) -> None:
        item: int | None = 0
        while item is not None:
            with aevent.move_on_after(next(chance) * 0.0005):
                item = await items.async_get()
                taken.append(item)

    def put(chance: Iterator[float], begin: int) -> None:
        for number in range(begin, begin + 50):
            items.put(number)
            time.sleep(next(chance) * 0.0003)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            for number in range(3):
                group.spawn(get, mix(seed * 100 + number))
                group.spawn(get_async, mix(seed * 200 + number))
            async with aevent.TaskGroup() as producers:
                producers.spawn(put, mix(seed), 0)
                producers.spawn(put, mix(seed + 1), 50)
                thread = system_threads.start(put, mix(seed + 2), 100)
            await until(lambda: not thread.is_alive())
            for _ in range(6):
                items.put(None)

    run(main)
    assert sorted(item for item in taken if item is not None) == list(range(150))


@pytest.mark.parametrize("seed", range(3))
def test_no_notification_is_lost_when_cancellation_races(run: Run, seed: int) -> None:
    """A waiter that is notified and cancelled at once passes the notification on."""
    chance = mix(seed)

    async def main() -> None:
        for _ in range(30):
            condition = aevent.Condition()
            woken: list[int] = []

            def wait(number: int) -> None:
                with condition:  # noqa: B023
                    if condition.wait():  # noqa: B023
                        woken.append(number)  # noqa: B023

            async with aevent.TaskGroup() as group:
                scopes = [group.spawn(wait, number) for number in range(4)]
                await until(lambda: condition._waiting() == 4)  # noqa: B023
                victim = int(next(chance) * 4)
                if next(chance) < 0.5:
                    scopes[victim].cancel()
                    async with condition:
                        condition.notify()
                else:
                    async with condition:
                        condition.notify()
                    scopes[victim].cancel()
                await until(lambda: len(woken) == 1)  # noqa: B023
                group.cancel_scope.cancel()

    run(main)
