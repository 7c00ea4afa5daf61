"""`queue`."""

from __future__ import annotations

import importlib
import math
import queue
import sys
import threading
import time
from typing import Any

import pytest

import aevent

KINDS: tuple[Any, ...] = (queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue)


def test_a_getter_waits_for_a_putter() -> None:
    for kind in KINDS:
        items = kind()
        threading.Timer(0.001, items.put, ("x",)).start()
        assert items.get(timeout=30) == "x"
        threading.Timer(0.001, items.put, ("y",)).start()
        assert items.get() == "y"


def test_a_putter_waits_for_room() -> None:
    for kind in (queue.Queue, queue.LifoQueue, queue.PriorityQueue):
        items: queue.Queue[int] = kind(1)
        items.put(1)
        threading.Timer(0.001, items.get).start()
        items.put(2, timeout=30)
        assert items.full()
        with pytest.raises(queue.Full):
            items.put(3, timeout=0.001)
        with pytest.raises(queue.Full):
            items.put_nowait(3)


def test_order_of_each_kind() -> None:
    for kind, expected in zip(KINDS, ([2, 1, 3], [3, 1, 2], [1, 2, 3], [2, 1, 3]), strict=True):
        items = kind()
        for item in (2, 1, 3):
            items.put(item)
        assert items.qsize() == 3
        assert [items.get() for _ in range(3)] == expected
        assert items.empty()


def test_errors_of_get() -> None:
    for kind in KINDS:
        items = kind()
        for options in ({"block": False}, {"timeout": 0.001}, {"timeout": 0}):
            with pytest.raises(queue.Empty):
                items.get(**options)
        with pytest.raises(queue.Empty):
            items.get_nowait()
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            items.get(timeout=-1)


def test_a_timeout_that_is_no_number_is_none() -> None:
    # As plainly, where it is found again and again not to be over.
    for kind in (queue.Queue, queue.LifoQueue, queue.PriorityQueue):
        items: queue.Queue[str] = kind(1)
        threading.Timer(0.001, items.put, ("x",)).start()
        assert items.get(timeout=math.nan) == "x"
        items.put("y", timeout=math.nan)
        threading.Timer(0.001, items.get).start()
        items.put("z", timeout=math.nan)
        assert items.get() == "z"


def test_join_waits_for_task_done() -> None:
    items: queue.Queue[int] = queue.Queue()
    done: list[int] = []

    def work() -> None:
        while True:
            item = items.get()
            time.sleep(0.001)
            done.append(item)
            items.task_done()

    threading.Thread(target=work, daemon=True).start()
    for item in range(3):
        items.put(item)
    items.join()
    assert done == [0, 1, 2]
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        items.task_done()


def test_every_kind_serves_real_threads_and_tasks_at_once() -> None:
    real = threading.Thread._aevent_orig  # type: ignore[attr-defined]
    for kind in KINDS:
        to_real, to_green = kind(), kind()

        def echo(source: Any = to_real, target: Any = to_green) -> None:
            for _ in range(10):
                target.put(source.get(timeout=30) + 1)

        thread = real(target=echo)
        thread.start()
        for number in range(10):
            to_real.put(number)
            assert to_green.get(timeout=30) == number + 1
        thread.join()


def test_a_queue_of_before_setup_waits_in_the_task() -> None:
    """Its locks and conditions are the originals'."""
    items: queue.Queue[str] = queue.Queue()
    items.mutex = threading.Lock._aevent_orig()  # type: ignore[attr-defined]
    condition = threading.Condition._aevent_orig  # type: ignore[attr-defined]
    items.not_empty = condition(items.mutex)
    items.not_full = condition(items.mutex)
    threading.Timer(0.001, items.put, ("x",)).start()
    assert items.get(timeout=30) == "x"


def test_simple_queue_is_subclassed_and_iterated_by_type() -> None:
    class Mine(queue.SimpleQueue[int]):
        def __init__(self, first: int) -> None:
            super().__init__()
            self.put(first)

    assert Mine(3).get() == 3
    assert str(queue.SimpleQueue[int]).endswith("SimpleQueue[int]")


def test_a_deadline_ends_a_get() -> None:
    for kind in KINDS:
        items = kind()
        with aevent.move_on_after(0.001) as scope:
            items.get()
        assert scope.cancelled_caught
        items.put(1)
        assert items.get_nowait() == 1


def test_a_queue_of_a_module_that_is_imported_again_cooperates() -> None:
    names = ("queue", "_queue")
    former = {name: sys.modules.pop(name) for name in names}
    try:
        fresh: Any = importlib.import_module("queue")
        inner: Any = sys.modules["_queue"]
    finally:
        sys.modules.update(former)
    assert fresh is not former["queue"] and inner is not former["_queue"]
    assert inner.__spec__.loader is inner.__loader__
    for kind in (fresh.SimpleQueue, fresh.Queue):
        items = kind()
        threading.Timer(0.001, items.put, ["item"]).start()
        assert items.get() == "item"
        with pytest.raises(fresh.Empty):
            items.get(timeout=0.001)


def test_what_is_done_to_a_queue_between_calls_counts() -> None:
    items: queue.Queue[Any] = queue.Queue(maxsize=3)
    others: queue.LifoQueue[Any] = queue.LifoQueue()
    for number in range(3):
        items.put(number)
        others.put(number)
    assert items.unfinished_tasks == others.unfinished_tasks == 3
    with pytest.raises(queue.Full):
        items.put(3, block=False)
    items.maxsize = 4
    items.put(3, block=False)
    items.task_done()
    items.maxsize = 0
    items.put(4)
    assert items.unfinished_tasks == 4
    items.unfinished_tasks = 10**30
    items.put(5)
    items.put(6)
    assert items.unfinished_tasks == 10**30 + 2
    # Another container.
    items.queue = type(items.queue)("ab")
    assert items.get() == "a"
    items.put("c")
    assert list(items.queue) == ["b", "c"]
    items.queue = type(items.queue)("xy", maxlen=2)
    items.put("z")
    items.put("!")
    assert list(items.queue) == ["z", "!"]
    # Hooks of the object's own.
    items._put = lambda item: items.queue.append(item * 2)  # type: ignore[method-assign]
    items.put("7")
    assert items.get() == "!"
    assert items.get() == "77"
    assert [others.get() for _ in range(3)] == [2, 1, 0]


def test_other_conditions_of_a_queue_are_waited_for_and_notified() -> None:
    items: queue.Queue[int] = queue.Queue()
    items.put(0)
    items.put(1)
    assert [items.get(), items.get()] == [0, 1]
    items.not_empty = threading.Condition(items.mutex)
    got: list[int] = []
    getter = threading.Thread(target=lambda: got.append(items.get()))
    getter.start()
    time.sleep(0)
    items.put(2)
    getter.join()
    assert got == [2]
    # A condition whose lock is another one: as the standard library's methods would have it.
    items.put(3)
    items.not_full.__init__(threading.Lock())  # type: ignore[misc]
    with pytest.raises(RuntimeError):
        items.get()


def test_many_queues_in_turns() -> None:
    queues: list[queue.Queue[int]] = [queue.Queue() for _ in range(300)]
    for number in range(5):
        for index, items in enumerate(queues):
            items.put(index)
            items.put(number)
        for index, items in enumerate(queues):
            assert [items.get(), items.get()] == [index, number]
            assert items.unfinished_tasks == (2 * number + 2 if index % 2 else 2)
        # New ones where others end.
        queues = [items if index % 2 else queue.Queue() for index, items in enumerate(queues)]
