"""Event loops in several green threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

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
