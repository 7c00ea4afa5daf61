"""`doctor()` tells what is patched, what was too early, and what blocks."""

from __future__ import annotations

import io
from collections.abc import Callable

import aevent

Fresh = Callable[..., str]


def test_before_setup_it_says_that_nothing_is_patched(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import aevent
found = aevent.doctor()
assert found.backend is None and found.patched == {} and found.rules == []
"""
    )
    assert out.startswith("aevent on CPython 3.")
    assert "setup() was not called: nothing is patched." in out


def test_it_tells_what_was_done(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import threading, warnings
from time import sleep
held = threading.Lock()
held.acquire()
import sqlite3
import aevent
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    aevent.setup(exclude=["select"])
aevent.offloaded("some_package.function")
found = aevent.doctor()
assert found.backend == "native"
assert "sleep" in found.patched["time"] and "Thread.start" in found.patched["threading"]
assert "select" not in found.patched
assert ("__main__", "sleep", "time.sleep") in found.rebound
assert ("__main__", "held", "a lock that is held") in found.unmended
assert "sqlite3" in [known.package for known in found.blocking]
"""
    )
    # The columns are as wide as the longest name needs.
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "set up for the backend 'native'" in lines
    assert "time sleep" in lines
    assert any(line.split() == ["__main__.sleep", "time.sleep"] for line in lines)
    assert any(line.split()[:5] == ["__main__.held", "a", "lock", "that", "is"] for line in lines)
    assert any(line.startswith("sqlite3 ") and "Remedy: " in line for line in lines)
    assert any(line.startswith("some_package.function ") for line in lines)
    assert max(map(len, out.splitlines())) <= 100


def test_a_package_with_a_rule_is_not_said_to_block(fresh_ok: Fresh) -> None:
    fresh_ok(
        """
import sqlite3, aevent
with aevent.offloaded("sqlite3.connect"):
    found = aevent.doctor()
    assert "sqlite3" not in [known.package for known in found.blocking]
    assert [rule.name for rule in found.rules] == ["sqlite3.connect"]
assert "sqlite3" in [known.package for known in aevent.doctor().blocking]
"""
    )


def test_it_prints_where_it_is_told_to() -> None:
    file = io.StringIO()
    found = aevent.doctor(file)
    assert file.getvalue() == f"{found}\n"
