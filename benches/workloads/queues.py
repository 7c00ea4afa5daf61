"""Two threads and the queues between them. An operation is one put and the get of that item."""

from __future__ import annotations

import queue
import threading
from typing import Any

from measure import Clocks, Sample, for_about


def main(*, seconds: float, kind: str, queue_class: str) -> Sample:
    measure = {"stream": stream, "ping-pong": ping_pong}[kind]
    return for_about(seconds, lambda size: measure(queue_class, size), first=500)


def new_queue(queue_class: str, *, maxsize: int) -> Any:
    return queue.SimpleQueue() if queue_class == "SimpleQueue" else queue.Queue(maxsize)


def stream(queue_class: str, items: int) -> Sample:
    """One thread puts, the other gets; a Queue is bounded, so that each waits for the other."""
    items_queue = new_queue(queue_class, maxsize=100)

    def put() -> None:
        for item in range(items):
            items_queue.put(item)

    def get() -> None:
        for _ in range(items):
            items_queue.get()

    return measure_together(items, get, put)


def ping_pong(queue_class: str, items: int) -> Sample:
    """One item goes back and forth, and whoever waits for it waits alone."""
    there, back = (new_queue(queue_class, maxsize=0) for _ in range(2))

    def serve() -> None:
        for _ in range(items):
            there.put(0)
            back.get()

    def answer() -> None:
        for _ in range(items):
            there.get()
            back.put(0)

    return measure_together(2 * items, serve, answer)


def measure_together(operations: int, *functions: Any) -> Sample:
    workers = [threading.Thread(target=function) for function in functions]
    begin = Clocks.read()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Sample.between(begin, Clocks.read(), operations)
