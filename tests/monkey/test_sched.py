"""`sched`."""

from __future__ import annotations

import sched
import threading
import time

from tests.monkey.heartbeat import heartbeat


def test_events_are_run_in_order_while_others_go_on() -> None:
    done: list[str] = []
    scheduler = sched.scheduler()
    scheduler.enter(0.01, 1, done.append, ("second",))
    scheduler.enter(0.005, 1, done.append, ("first",))
    dropped = scheduler.enter(0.007, 1, done.append, ("never",))
    scheduler.cancel(dropped)
    with heartbeat() as heart:
        scheduler.run()
    assert done == ["first", "second"]
    assert heart.ticks


def test_another_thread_enters_an_event() -> None:
    done: list[str] = []
    scheduler = sched.scheduler(time.monotonic, time.sleep)
    scheduler.enter(0.01, 1, done.append, ("late",))

    def work() -> None:
        scheduler.enter(0, 1, done.append, ("early",))
        scheduler.run(blocking=False)

    other = threading.Thread(target=work)
    other.start()
    scheduler.run()
    other.join()
    assert done == ["early", "late"]
