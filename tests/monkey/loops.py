"""Event loops in several green threads at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.monkey.heartbeat import heartbeat

COUNT = 4


def run_in_threads(fn: Callable[[int], Any], count: int = COUNT) -> list[Any]:
    """What `fn(number)` returned in each of several green threads at once."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            results[number] = fn(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@contextlib.contextmanager
def others_go_on(at_least: int = 3) -> Iterator[None]:
    """Fails if the others are kept from running during the body."""
    with heartbeat() as heart:
        yield
    assert heart.ticks >= at_least
