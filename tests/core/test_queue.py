"""`queue.Queue` and its kin: the standard library's classes, with `put` and `get` of our own."""

from __future__ import annotations

import gc
import inspect
import pickle
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.core.threads import start, wait_for

CLASSES = (queue.Queue, queue.LifoQueue, queue.PriorityQueue)


def test_the_methods_are_ours() -> None:
    for kind in CLASSES:
        for name in ("put", "get"):
            assert inspect.ismethoddescriptor(getattr(kind, name)), (kind, name)
    assert str(inspect.signature(queue.Queue.put)) == "(self, /, item, block=True, timeout=None)"
    assert str(inspect.signature(queue.Queue.get)) == "(self, /, block=True, timeout=None)"


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        (queue.Queue, [2, 3, 1]),
        (queue.LifoQueue, [1, 3, 2]),
        (queue.PriorityQueue, [1, 2, 3]),
    ],
)
def test_items_come_in_the_order_of_the_class(anywhere: Any, kind: Any, order: list[int]) -> None:
    def main() -> None:
        items = kind()
        for item in (2, 3, 1):
            items.put(item)
        assert items.qsize() == 3
        assert items.unfinished_tasks == 3
        assert [items.get() for _ in range(3)] == order
        assert items.empty()
        assert items.unfinished_tasks == 3

    anywhere(main)


@pytest.mark.parametrize("kind", CLASSES)
def test_full_and_empty_are_raised(anywhere: Any, kind: Any) -> None:
    def main() -> None:
        items = kind(1)
        for call in (
            items.get_nowait,
            lambda: items.get(False),
            lambda: items.get(block=False),
            lambda: items.get(timeout=0),
            lambda: items.get(True, 0.001),
            lambda: items.get(0),
        ):
            with pytest.raises(queue.Empty):
                call()
        items.put(1)
        for call in (
            lambda: items.put_nowait(2),
            lambda: items.put(2, False),
            lambda: items.put(item=2, block=False),
            lambda: items.put(2, timeout=0.0),
            lambda: items.put(2, True, 0.001),
            lambda: items.put(2, block=0),
        ):
            with pytest.raises(queue.Full):
                call()
        assert items.full()
        assert items.unfinished_tasks == 1
        assert items.get() == 1

    anywhere(main)


def test_bad_arguments_are_refused_as_by_the_standard_library(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        items.put(1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            items.get(timeout=-1)
        with pytest.raises(TypeError):
            items.get(timeout="soon")  # type: ignore[arg-type]
        items.put(2, timeout=-1)  # not looked at while the queue has no limit
        items.maxsize = 5
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            items.put(3, timeout=-0.5)
        for call in (
            lambda: items.put(),  # type: ignore[call-arg]
            lambda: items.put(1, item=1),  # type: ignore[misc]
            lambda: items.put(1, True, None, None),  # type: ignore[call-arg]
            lambda: items.get(delay=1),  # type: ignore[call-arg]
            lambda: items.get(True, block=True),  # type: ignore[misc]
        ):
            with pytest.raises(TypeError):
                call()
        assert items.qsize() == 2

    anywhere(main)


def test_a_keyword_that_is_not_interned_is_understood(anywhere: Any) -> None:
    def main() -> None:
        name = "".join(["blo", "ck"])
        with pytest.raises(queue.Empty):
            queue.Queue().get(**{name: False})  # type: ignore[arg-type]

    anywhere(main)


@pytest.mark.parametrize("kind", CLASSES)
def test_get_waits_for_an_item(anywhere: Any, kind: Any) -> None:
    def main() -> None:
        items = kind()
        got: list[Any] = []
        threads = start(lambda: got.append(items.get()), lambda: got.append(items.get(timeout=30)))
        wait_for(lambda: items.not_empty._waiting() == 2)
        items.put(1)
        items.put(2)
        for thread in threads:
            thread.join()
        assert sorted(got) == [1, 2]

    anywhere(main)


@pytest.mark.parametrize("kind", CLASSES)
def test_put_waits_for_room(anywhere: Any, kind: Any) -> None:
    def main() -> None:
        items = kind(1)
        items.put(0)
        threads = start(lambda: items.put(1), lambda: items.put(1, timeout=30))
        wait_for(lambda: items.not_full._waiting() == 2)
        assert items.qsize() == 1
        assert [items.get(), items.get(), items.get()] == [0, 1, 1]
        for thread in threads:
            thread.join()
        assert items.unfinished_tasks == 3

    anywhere(main)


def test_those_who_wait_are_served_in_order() -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        got: list[tuple[str, int]] = []

        def get(name: str) -> None:
            got.append((name, items.get()))

        threads = [threading.Thread(target=get, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        wait_for(lambda: items.not_empty._waiting() == 3)  # type: ignore[attr-defined]
        for item in range(3):
            items.put(item)
        for thread in threads:
            thread.join()
        assert got == [("a", 0), ("b", 1), ("c", 2)]

    aevent.run(main)


def test_a_task_and_a_real_thread_share_a_queue() -> None:
    there: queue.Queue[int] = queue.Queue(2)
    back: queue.Queue[int] = queue.Queue(2)

    def answer() -> None:
        for _ in range(200):
            back.put(there.get() + 1)

    real = threading.Thread(target=answer)  # started outside a task: one of the system's
    real.start()

    def main() -> list[int]:
        answers = []
        for number in range(200):
            there.put(number)
            answers.append(back.get())
        return answers

    assert aevent.run(main) == [number + 1 for number in range(200)]
    real.join()


def test_a_cancelled_waiter_passes_its_notification_on() -> None:
    def main() -> None:
        items: queue.Queue[str] = queue.Queue()
        got: list[str] = []
        scopes: list[aevent.CancelScope] = []

        def first() -> None:
            with aevent.CancelScope() as scope:
                scopes.append(scope)
                got.append(items.get())

        threads = start(first, lambda: got.append("second: " + items.get()))
        wait_for(lambda: items.not_empty._waiting() == 2)  # type: ignore[attr-defined]
        items.put("item")  # the first is notified, but has not run
        scopes[0].cancel()
        threads[0].join()
        # Whether the notification or the cancellation counts is open; the item reaches somebody.
        wait_for(lambda: len(got) == 1)
        items.put("another")
        threads[1].join()

    aevent.run(main)


def test_a_cancelled_get_takes_nothing() -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()

        def give_up() -> None:
            with aevent.move_on_after(0.001):
                items.get()
                raise AssertionError("there was no item")

        (thread,) = start(give_up)
        thread.join()
        assert items.not_empty._waiting() == 0  # type: ignore[attr-defined]
        items.put(1)
        assert items.get() == 1

    aevent.run(main)


def test_a_woken_getter_waits_for_the_mutex(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        got: list[int] = []
        (thread,) = start(lambda: got.append(items.get()))
        wait_for(lambda: items.not_empty._waiting() == 1)  # type: ignore[attr-defined]
        with items.mutex:
            items.queue.append(7)
            items.not_empty.notify()
            wait_for(lambda: items.mutex._waiters() == 1)  # type: ignore[attr-defined]
            assert got == []
        thread.join()
        assert got == [7]
        assert not items.mutex.locked()

    anywhere(main)


def test_a_woken_getter_that_finds_nothing_waits_again(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        got: list[int] = []
        (thread,) = start(lambda: got.append(items.get()))
        for _ in range(2):
            wait_for(lambda: items.not_empty._waiting() == 1)  # type: ignore[attr-defined]
            with items.mutex:
                items.not_empty.notify()
                wait_for(lambda: items.mutex._waiters() == 1)  # type: ignore[attr-defined]
        wait_for(lambda: items.not_empty._waiting() == 1)  # type: ignore[attr-defined]
        assert not items.mutex.locked()
        items.put(7)
        thread.join()
        assert got == [7]

    anywhere(main)


def test_put_and_get_wait_for_whoever_holds_the_mutex(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        items.put(1)
        with items.mutex:
            (thread,) = start(lambda: items.put(2))
            wait_for(lambda: items.mutex._waiters() == 1)  # type: ignore[attr-defined]
            assert list(items.queue) == [1]
            items.queue.clear()
        thread.join()
        assert items.get() == 2

    anywhere(main)


def test_a_thread_that_only_asks_lets_the_others_run(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()

        def ask() -> None:
            while True:
                try:
                    return got.append(items.get_nowait())
                except queue.Empty:
                    pass

        got: list[int] = []
        for thread in start(ask, lambda: items.put(1)):
            thread.join()
        assert got == [1]

    anywhere(main)


def test_join_returns_when_all_is_done(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue(3)

        def work() -> None:
            for _ in range(10):
                items.get()
                items.task_done()

        (thread,) = start(work)
        for item in range(10):
            items.put(item)
        items.join()
        assert items.unfinished_tasks == 0
        with pytest.raises(ValueError, match="called too many times"):
            items.task_done()
        thread.join()

    anywhere(main)


def test_the_limit_may_be_changed(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        items.put(1)
        items.maxsize = 1
        with pytest.raises(queue.Full):
            items.put_nowait(2)
        items.maxsize = 2
        items.put(2)
        items.maxsize = 2.5  # type: ignore[assignment]
        items.put(3)
        assert items.qsize() == 3

    anywhere(main)


def test_unfinished_tasks_may_be_any_number(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        items.unfinished_tasks = 2**100
        items.put(1)
        assert items.unfinished_tasks == 2**100 + 1
        items.unfinished_tasks = 0.5  # type: ignore[assignment]
        items.put(1)
        assert items.unfinished_tasks == 1.5

    anywhere(main)


# --- Shutting down, from Python 3.13 on -----------------------------------------------------------


def test_the_classes_are_still_the_same() -> None:
    assert queue.Queue[int].__origin__ is queue.Queue  # type: ignore[attr-defined]
    assert queue.Queue.__module__ == "queue"
    assert issubclass(queue.PriorityQueue, queue.Queue)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(queue.Queue())


def test_nothing_is_kept() -> None:
    class Item:
        pass

    def main() -> None:
        for kind in (queue.Queue, queue.LifoQueue):
            items = kind()
            item = Item()
            alive = weakref.ref(item)
            items.put(item)
            del item
            assert alive() is not None
            items.get()
            assert alive() is None
            alive_queue = weakref.ref(items)
            del items
            gc.collect()
            assert alive_queue() is None

    aevent.run(main)


@pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
def test_who_only_puts_lets_those_who_take_have_their_turn(
    run_on: Callable[[str], Callable[..., Any]], backend: str
) -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    deepest = 0

    def take() -> None:
        for _ in range(20_000):
            items.get()

    def main() -> None:
        nonlocal deepest
        taker = threading.Thread(target=take)
        taker.start()
        for number in range(20_000):
            items.put(number)
            deepest = max(deepest, items.qsize())
        taker.join()

    run_on(backend)(main)
    assert deepest < 1000


def test_a_coroutine_that_only_puts_is_not_interrupted() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    ran: list[None] = []

    async def main() -> None:
        thread = threading.Thread(target=ran.append, args=(None,))
        thread.start()
        for number in range(5000):
            items.put(number)
        assert not ran
        await aevent.checkpoint()

    aevent.run(main)
    assert ran
