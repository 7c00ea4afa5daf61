"""Many slow DNS look-ups at once. An operation is all of them, as that is what one waits for.

The slow resolver is preloaded, see ../c/slow_resolver.c.
"""

from __future__ import annotations

import socket
import threading

from measure import Clocks, Sample

REPEATS = 3


def main(*, seconds: float, threads: int) -> Sample:
    """`seconds` is not used: the resolver says how long this takes."""
    look_up_at_once(threads)  # the warm-up: the helper threads of the runtime start here
    begin = Clocks.read()
    for _ in range(REPEATS):
        look_up_at_once(threads)
    return Sample.between(begin, Clocks.read(), REPEATS)


def look_up_at_once(threads: int) -> None:
    addresses: list[str] = []

    def look_up(name: str) -> None:
        [(*_, address)] = socket.getaddrinfo(name, 80, socket.AF_INET, socket.SOCK_STREAM)
        addresses.append(str(address[0]))

    workers = [
        threading.Thread(target=look_up, args=(f"host{number}.slow.test",))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert addresses == ["127.0.0.53"] * threads, f"not the slow resolver's answers: {addresses}"
