"""`time.sleep`."""

from __future__ import annotations

import threading
import time

import pytest

import aevent


def test_sleepers_sleep_side_by_side() -> None:
    began = time.monotonic()
    threads = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.05 <= time.monotonic() - began < 0.5


def test_sleep_zero_lets_others_run() -> None:
    order: list[str] = []
    thread = threading.Thread(target=order.append, args=("other",))
    thread.start()
    for _ in range(100):
        time.sleep(0)
    order.append("this")
    assert order == ["other", "this"]
    thread.join()


@pytest.mark.parametrize("unused", [None])
def test_arguments_are_checked_as_by_the_original(unused: None, fresh_ok, backend: str) -> None:  # type: ignore[no-untyped-def]
    script = """
import decimal, sys, time
import aevent
aevent.setup(sys.argv[1])

class Index:
    def __index__(self): return 0

def outcome(sleep, args, kwargs={}):
    try:
        return sleep(*args, **kwargs)
    except Exception as error:
        return type(error), str(error).replace("time.sleep()", "sleep()")

def main():
    for args in [(-1,), (-1.5,), (float("nan"),), ("1",), (None,), (), (1, 2), (1e300,), (10**30,),
                 (decimal.Decimal(0),), (Index(),), (True and 0,), (0.0,)]:
        ours, theirs = outcome(time.sleep, args), outcome(time.sleep._aevent_orig, args)
        assert (ours is None) == (theirs is None) and (ours is None or ours[0] is theirs[0]), (
            args, ours, theirs)
    assert outcome(time.sleep, (), {"seconds": 0})[0] is TypeError

aevent.run(main)
assert outcome(time.sleep, (-1,)) == outcome(time.sleep._aevent_orig, (-1,))
"""
    fresh_ok(script, backend)


def test_the_original_sleeps_under_native() -> None:
    ran: list[int] = []
    thread = threading.Thread(target=ran.append, args=(1,))
    thread.start()
    with aevent.native():
        time.sleep(0.02)
        assert ran == []
        with aevent.patched():
            time.sleep(0.001)
        assert ran == [1]
    thread.join()


def test_a_deadline_ends_a_sleep() -> None:
    began = time.monotonic()
    with aevent.move_on_after(0.01) as scope:
        time.sleep(5)
    assert scope.cancelled_caught
    assert time.monotonic() - began < 1
