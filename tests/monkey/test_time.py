"""`time.sleep`."""

from __future__ import annotations

import decimal
import math
import threading
import time
from typing import Any

import pytest

import aevent
from tests.monkey.threads import taking_turns


def test_sleepers_sleep_side_by_side() -> None:
    began = time.monotonic()
    threads = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One after the other, it would be 20.
    assert 0.05 <= time.monotonic() - began < 10


def test_sleep_zero_lets_others_run() -> None:
    order: list[str] = []
    thread = threading.Thread(target=order.append, args=("other",))
    thread.start()
    for _ in range(100):
        time.sleep(0)
    order.append("this")
    assert order == ["other", "this"]
    thread.join()


class Index:
    def __index__(self) -> int:
        return 0


def outcome(sleep: Any, *args: Any, **kwargs: Any) -> type[Exception] | None:
    try:
        sleep(*args, **kwargs)
    except Exception as error:
        return type(error)
    return None


def test_arguments_are_checked_as_by_the_original() -> None:
    original = time.sleep._aevent_orig  # type: ignore[attr-defined]
    wrong = [(-1,), (-1.5,), (math.nan,), ("1",), (None,), (), (1, 2), (1e300,), (10**30,)]
    right = [(Index(),), (False,), (0.0,), (0,), (0.001,)]
    for args in wrong + right + [(decimal.Decimal(0),)]:
        assert outcome(time.sleep, *args) is outcome(original, *args), args
    assert outcome(time.sleep, seconds=0) is TypeError
    with pytest.raises(ValueError, match="sleep length must be non-negative"):
        time.sleep(-1)


def test_the_original_sleeps_under_native() -> None:
    with taking_turns() as turns, aevent.native():
        before = turns()
        time.sleep(0.02)
        assert turns() == before
        with aevent.patched():
            time.sleep(0.001)
        assert turns() > before


def test_a_deadline_ends_a_sleep() -> None:
    with aevent.move_on_after(0.01) as scope:
        time.sleep(3600)
    assert scope.cancelled_caught
