"""Two threads that take turns, through events or through a condition. An operation is one turn."""

from __future__ import annotations

import threading

from measure import Clocks, Sample, for_about


def main(*, seconds: float, kind: str) -> Sample:
    measure = {"event": events, "condition": condition}[kind]
    return for_about(seconds, measure, first=500)


def events(turns: int) -> Sample:
    ping, pong = threading.Event(), threading.Event()

    def run(mine: threading.Event, other: threading.Event) -> None:
        for _ in range(turns):
            mine.wait()
            mine.clear()
            other.set()

    workers = [
        threading.Thread(target=run, args=(ping, pong)),
        threading.Thread(target=run, args=(pong, ping)),
    ]
    for worker in workers:
        worker.start()
    begin = Clocks.read()
    ping.set()
    for worker in workers:
        worker.join()
    return Sample.between(begin, Clocks.read(), 2 * turns)


def condition(turns: int) -> Sample:
    changed = threading.Condition()
    turn = -1

    def run(mine: int) -> None:
        nonlocal turn
        for _ in range(turns):
            with changed:
                while turn != mine:
                    changed.wait()
                turn = 1 - mine
                changed.notify()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    begin = Clocks.read()
    with changed:
        turn = 0
        changed.notify_all()
    for worker in workers:
        worker.join()
    return Sample.between(begin, Clocks.read(), 2 * turns)
