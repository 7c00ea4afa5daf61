"""`sqlite3`, whose calls block in C, beside other work in one event loop.

A patched standard library parks a task wherever Python code would block. It cannot see into C:
while SQLite works on a query, its caller's thread, and with it the whole loop, would stand still.
So each call that may take long is marked as `offloaded`: made in a real thread, while the task that
asks parks.

Two things are to be known about SQLite. A connection is to be told that more than one thread uses
it (`check_same_thread=False`), for the real thread may be another one at each call. And it works on
one query at a time: like threads, green threads that are to run queries side by side, or
transactions apart from each other, have a connection each.

    python examples/database.py
    python examples/database.py --backend trio --queries 8

It exits with status 1, and says why, if an answer is wrong or if the loop stood still for long.
"""

from __future__ import annotations

import aevent

aevent.setup()

import argparse
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

# A rule for a function that others call: opening a file may block as well.
aevent.offloaded("sqlite3.connect")


# The classes themselves are written in C, and what is in them cannot be replaced: derived ones can.
class Cursor(sqlite3.Cursor):
    execute = aevent.offloaded(sqlite3.Cursor.execute)
    executemany = aevent.offloaded(sqlite3.Cursor.executemany)
    fetchone = aevent.offloaded(sqlite3.Cursor.fetchone)
    fetchall = aevent.offloaded(sqlite3.Cursor.fetchall)


class Connection(sqlite3.Connection):
    execute = aevent.offloaded(sqlite3.Connection.execute)
    executemany = aevent.offloaded(sqlite3.Connection.executemany)
    commit = aevent.offloaded(sqlite3.Connection.commit)
    __exit__ = aevent.offloaded(sqlite3.Connection.__exit__)

    def cursor(self, factory: type[sqlite3.Cursor] = Cursor) -> sqlite3.Cursor:  # type: ignore[override]
        return super().cursor(factory)


def connect(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, timeout=30, check_same_thread=False, factory=Connection))


COUNT = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
    SELECT count(*) FROM numbers
"""


class Heartbeat:
    """Ticks every 2 ms, and notes the longest pause between two ticks."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.ticks = 0

    async def run(self) -> None:
        last = time.monotonic()
        while True:
            await aevent.sleep(0.002)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            self.ticks += 1
            last = now


def work(path: Path, number: int, rows: int) -> None:
    """What a request of some web application might do: it counts, and writes down what it found."""
    with connect(path) as connection:
        (counted,) = connection.execute(COUNT, (rows,)).fetchone()
        with connection:
            connection.execute("INSERT INTO results VALUES (?, ?)", (number, counted))


async def main(path: Path, queries: int, rows: int) -> tuple[Heartbeat, list[tuple[int, int]]]:
    await aevent.per_task()
    heartbeat = Heartbeat()
    with connect(path) as connection:
        connection.execute("CREATE TABLE results (number INTEGER, counted INTEGER)")
        async with aevent.TaskGroup() as everything:
            beating = everything.spawn(heartbeat.run)
            async with aevent.TaskGroup() as workers:
                for number in range(queries):
                    workers.spawn(work, path, number, rows)
            beating.cancel()
        found = connection.execute("SELECT * FROM results ORDER BY number").fetchall()
    return heartbeat, found


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Queries with sqlite3 inside an event loop.")
    backends = ["native", "asyncio", "trio"]
    parser.add_argument("--backend", action="append", choices=backends)
    parser.add_argument("--queries", type=int, default=4, metavar="N")
    parser.add_argument("--rows", type=int, default=500_000, metavar="N", help="counted by each")
    parser.add_argument(
        "--longest-gap",
        type=float,
        default=0.1,
        metavar="SECONDS",
        help="fail if the loop stands still for longer, and for half of the time (default: 0.1)",
    )
    options = parser.parse_args()
    options.backend = options.backend or backends
    return options


def run() -> int:
    options = parse_options()
    failed = False
    for backend in options.backend:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            heartbeat, found = aevent.run(
                main, Path(folder, "results.db"), options.queries, options.rows, backend=backend
            )
            took = time.monotonic() - start
        print(
            f"{backend:8} {options.queries} queries in {took * 1000:4.0f} ms, meanwhile "
            f"{heartbeat.ticks} ticks of the loop, {heartbeat.longest * 1000:.0f} ms apart at most"
        )
        if found != [(number, options.rows) for number in range(options.queries)]:
            print(f"database.py: {backend}: wrong answers: {found}", file=sys.stderr)
            failed = True
        if heartbeat.longest > max(took / 2, options.longest_gap):
            print(f"database.py: {backend}: the loop stood still", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
