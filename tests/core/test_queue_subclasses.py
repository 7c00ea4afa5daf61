"""Queues of the standard library with hooks, attributes or locks of a subclass or an instance."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any

import pytest


class Counting(queue.Queue):  # type: ignore[type-arg]
    """Keeps sets, as people do."""

    def _init(self, maxsize: int) -> None:
        self.queue: set[int] = set()  # type: ignore[assignment]
        self.log: list[str] = []

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: int) -> None:
        self.log.append("put")
        self.queue.add(item)

    def _get(self) -> int:
        self.log.append("get")
        return self.queue.pop()


def test_a_subclass_with_hooks_of_its_own(anywhere: Any) -> None:
    def main() -> None:
        items = Counting(1)
        items.put(1)
        with pytest.raises(queue.Full):
            items.put_nowait(1)
        assert items.get() == 1
        assert items.log == ["put", "get"]

    anywhere(main)


def test_a_subclass_with_another_container_only(anywhere: Any) -> None:
    class Plain(queue.Queue):  # type: ignore[type-arg]
        def _init(self, maxsize: int) -> None:
            self.queue = Container()

    class Container(deque):  # type: ignore[type-arg]
        def append(self, item: Any) -> None:
            super().append(("seen", item))

    def main() -> None:
        items = Plain()
        items.put(1)
        assert items.get() == ("seen", 1)

    anywhere(main)


def test_a_subclass_with_attributes_of_its_own(anywhere: Any) -> None:
    class Named(queue.LifoQueue):  # type: ignore[type-arg]
        def __init__(self, name: str) -> None:
            self.name = name
            super().__init__(2)
            self.other = name

    def main() -> None:
        items = Named("x")
        items.put(1)
        items.put(2)
        with pytest.raises(queue.Full):
            items.put(3, timeout=0)
        assert (items.get(), items.get()) == (2, 1)
        assert items.unfinished_tasks == 2

    anywhere(main)


def test_an_instance_with_a_hook_of_its_own(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        items.put(1)
        items._put = lambda item: items.queue.append(-item)  # type: ignore[method-assign]
        items.put(2)
        assert (items.get(), items.get()) == (1, -2)

    anywhere(main)


def test_a_hook_that_is_exchanged_later(anywhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sub(queue.Queue):  # type: ignore[type-arg]
        pass

    def main() -> None:
        items = Sub()
        items.put(1)
        monkeypatch.setattr(Sub, "_put", lambda self, item: self.queue.append(-item), raising=False)
        items.put(2)
        monkeypatch.undo()
        monkeypatch.setattr(queue.Queue, "_put", lambda self, item: self.queue.append(-item))
        items.put(3)
        monkeypatch.undo()
        items.put(4)
        assert [items.get() for _ in range(4)] == [1, -2, -3, 4]

    anywhere(main)


def test_a_property_comes_before_the_instance(anywhere: Any) -> None:
    class Limited(queue.Queue):  # type: ignore[type-arg]
        @property
        def maxsize(self) -> int:  # type: ignore[override]
            return 1

        @maxsize.setter
        def maxsize(self, value: int) -> None:
            pass

    def main() -> None:
        items = Limited()
        items.put(1)
        with pytest.raises(queue.Full):
            items.put_nowait(2)

    anywhere(main)


def test_a_subclass_that_extends_put_and_get(anywhere: Any) -> None:
    class Doubling(queue.Queue):  # type: ignore[type-arg]
        def put(self, item: int, block: bool = True, timeout: float | None = None) -> None:
            super().put(2 * item, block, timeout)

        def get(self, *args: Any, **kwargs: Any) -> int:
            return -super().get(*args, **kwargs)  # type: ignore[no-any-return]

    def main() -> None:
        items = Doubling()
        items.put_nowait(1)
        assert items.get_nowait() == -2

    anywhere(main)


def test_a_queue_whose_mutex_is_another(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue(1)
        items.mutex = threading.RLock()  # type: ignore[assignment]
        items.not_empty = threading.Condition(items.mutex)
        items.not_full = threading.Condition(items.mutex)
        items.all_tasks_done = threading.Condition(items.mutex)
        with items.mutex:  # a lock of this kind lets its owner in again
            items.put(1)
        with pytest.raises(queue.Full):
            items.put(1, timeout=0.001)
        assert items.get() == 1

    anywhere(main)


def test_a_queue_made_of_the_original_locks(anywhere: Any) -> None:
    def main() -> None:
        items: queue.Queue[int] = queue.Queue()
        lock = threading.Lock._aevent_orig()  # type: ignore[attr-defined]
        condition = threading.Condition._aevent_orig  # type: ignore[attr-defined]
        items.mutex = lock
        items.not_empty, items.not_full, items.all_tasks_done = (condition(lock) for _ in range(3))
        items.put(1)
        assert items.get() == 1

    anywhere(main)


def test_items_that_cannot_be_compared_leave_a_usable_queue(anywhere: Any) -> None:
    def main() -> None:
        items: queue.PriorityQueue[Any] = queue.PriorityQueue()
        items.put(1)
        with pytest.raises(TypeError):
            items.put("a")
        assert not items.mutex.locked()
        assert items.unfinished_tasks == 1

    anywhere(main)


def test_comparisons_run_with_the_mutex_held(anywhere: Any) -> None:
    class Item:
        def __lt__(self, other: object) -> bool:
            seen.append(items.mutex.locked())
            items.unfinished_tasks += 10
            return True

    seen: list[bool] = []
    items: queue.PriorityQueue[Item] = queue.PriorityQueue()

    def main() -> None:
        items.put(Item())
        items.put(Item())
        assert seen == [True]
        assert items.unfinished_tasks == 12

    anywhere(main)


def test_what_a_bounded_deque_drops_may_run_anything(anywhere: Any) -> None:
    class Item:
        def __del__(self) -> None:
            items.__dict__["queue"] = deque(["from", "__del__"])

    items: queue.Queue[Any] = queue.Queue()

    def main() -> None:
        items.queue = deque(maxlen=1)
        items.put(Item())
        items.put("x")
        assert items.get() == "from"
        assert items.unfinished_tasks == 2

    anywhere(main)
