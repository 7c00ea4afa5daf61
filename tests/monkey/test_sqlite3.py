"""`sqlite3` blocks in C: with rules for its calls, others go on meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import pytest

import aevent
from tests.monkey.heartbeat import TICKS, Heartbeat, heartbeat

SLOW = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT count(*) FROM n
"""


class Connection(sqlite3.Connection):
    execute = aevent.offloaded(sqlite3.Connection.execute)


def beating(connection: sqlite3.Connection, heart: Heartbeat) -> None:
    """A function for queries: ends when others have gone on, so never if the query stops them."""

    def beaten() -> int:
        until = heart.ticks + TICKS
        while heart.ticks < until:
            time.sleep(0.001)
        return 5

    connection.create_function("beaten", 0, beaten)


def test_an_offloaded_call_lets_others_run() -> None:
    with (
        contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection,
        heartbeat() as heart,
    ):
        beating(connection, heart)
        assert aevent.offload(connection.execute, "SELECT beaten()").fetchone() == (5,)


def test_a_derived_class_with_offloaded_methods_lets_others_run() -> None:
    with (
        contextlib.closing(
            sqlite3.connect(":memory:", check_same_thread=False, factory=Connection)
        ) as connection,
        heartbeat() as heart,
    ):
        assert isinstance(connection, sqlite3.Connection)
        beating(connection, heart)
        assert connection.execute("SELECT beaten()").fetchone() == (5,)
        assert connection.execute("SELECT ?", (5,)).fetchone() == (5,)
        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            connection.execute("SELEKT")


def test_a_connection_that_belongs_to_one_thread_says_so() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", factory=Connection)) as connection:
        with pytest.raises(sqlite3.ProgrammingError, match="same thread"):
            connection.execute("SELECT 1")


def test_a_query_is_abandoned_at_a_deadline_and_can_be_interrupted() -> None:
    with contextlib.closing(
        sqlite3.connect(":memory:", check_same_thread=False, factory=Connection)
    ) as connection:
        begun, ended = threading.Event(), threading.Event()
        # Not before the query runs: an interrupt would be lost.
        connection.set_progress_handler(begun.set, 1000)

        def query() -> None:
            try:
                sqlite3.Connection.execute(connection, SLOW, (10**9,)).fetchone()
            except sqlite3.OperationalError:
                ended.set()

        def let_the_deadline_pass() -> None:
            begun.wait()
            scope.deadline = aevent.current_time()

        threading.Thread(target=let_the_deadline_pass).start()
        with aevent.CancelScope() as scope:
            aevent.offload(query)
        assert scope.cancelled_caught
        assert not ended.is_set()
        connection.interrupt()
        assert ended.wait(30)
        connection.set_progress_handler(None, 0)
        assert connection.execute("SELECT 1").fetchone() == (1,)
