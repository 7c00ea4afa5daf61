"""Pipes between two threads, and child processes.

`os.read` blocks all of gevent's greenlets, so that two that answer each other never go on. Its
program uses the calls that gevent has for the purpose.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable

from measure import Clocks, Sample, for_about


def main(*, seconds: float, kind: str) -> Sample:
    if kind == "ping-pong":
        return for_about(seconds, ping_pong, first=200)
    return for_about(seconds, run_children, first=5)


def main_gevent(*, seconds: float, kind: str) -> Sample:
    if kind != "ping-pong":
        return main(seconds=seconds, kind=kind)
    from gevent.os import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        make_nonblocking,
        nb_read,
        nb_write,
    )

    def measure(turns: int) -> Sample:
        return ping_pong(turns, nb_read, nb_write, make_nonblocking)

    return for_about(seconds, measure, first=200)


def ping_pong(
    turns: int,
    read: Callable[[int, int], bytes] | None = None,
    write: Callable[[int, bytes], int] | None = None,
    prepare: Callable[[int], object] = id,
) -> Sample:
    """A byte goes there and back through two pipes. An operation is one such turn."""
    read, write = read or os.read, write or os.write
    (there, to_there), (back, to_back) = os.pipe(), os.pipe()
    for fd in (there, to_there, back, to_back):
        prepare(fd)

    def answer() -> None:
        for _ in range(turns):
            write(to_back, read(there, 100))

    try:
        answering = threading.Thread(target=answer)
        answering.start()
        begin = Clocks.read()
        for _ in range(turns):
            write(to_there, b"x")
            read(back, 100)
        sample = Sample.between(begin, Clocks.read(), turns)
        answering.join()
    finally:
        for fd in (there, to_there, back, to_back):
            os.close(fd)
    return sample


def run_children(children: int) -> Sample:
    """Starts a program and waits for its end. An operation is one."""
    begin = Clocks.read()
    for _ in range(children):
        subprocess.run(["true"], check=True)
    return Sample.between(begin, Clocks.read(), children)
