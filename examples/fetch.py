"""Five hundred downloads with `requests`, a hundred at a time, inside one event loop.

Everything that does the work here is ordinary synchronous code: the web server is the standard
library's `ThreadingHTTPServer`, which takes 100 ms of `time.sleep` over each answer, and the
downloads are plain `requests` calls, fed from a `queue.Queue`. The program around them is an async
one, run on each backend in turn: aevent's own loop, asyncio and trio. While the synchronous code
blocks, a heartbeat task of that loop goes on ticking every 10 ms, and reports the longest it ever
had to wait.

    python examples/fetch.py
    python examples/fetch.py --backend trio --downloads 1000 --at-a-time 200

It exits with status 1, and says why, if an answer is wrong, if the downloads take more than twice
as long as the server's sleeping alone, or if the loop stood still for more than 100 ms. A machine
that has much else to do may be given more of both: `--longest-wall-time`, `--longest-gap`.
"""

from __future__ import annotations

# `setup()` comes before the other imports: a module that says `from socket import socket` while it
# is imported then gets the cooperative one.
import aevent

aevent.setup()

import argparse
import asyncio
import hashlib
import math
import queue
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# The heartbeat sleeps with the *host's* own function, so that what it measures is the host's loop.
HOST_SLEEP: dict[str, Callable[[float], Awaitable[object]]] = {
    "native": aevent.sleep,
    "asyncio": asyncio.sleep,
    "trio": trio.sleep,
}
HEARTBEAT_INTERVAL = 0.01

LONGEST_HEARTBEAT_GAP = 0.1
LONGEST_WALL_TIME = 2.0  # in multiples of the ideal


def body_of(path: str) -> bytes:
    """The 4 KiB that the server answers for `path`; different for each path."""
    return hashlib.sha256(path.encode()).hexdigest().encode() * 64


# --- the server: nothing but the standard library -------------------------------------------------


class SlowHandler(BaseHTTPRequestHandler):
    """Answers every GET with `body_of(path)`, after sleeping for the server's delay."""

    server: SlowServer
    protocol_version = "HTTP/1.1"  # keeps connections open between requests
    # Buffered, so that an answer's head and body leave in one packet: sent apart, the body would
    # wait until the client has acknowledged the head.
    wbufsize = -1

    def do_GET(self) -> None:
        time.sleep(self.server.delay)
        body = body_of(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # the progress bar has the terminal


class SlowServer(ThreadingHTTPServer):
    """Starts a `threading.Thread` per connection; in an aevent task that is a green thread."""

    request_queue_size = 1024  # the default of 5 turns clients away when they all connect at once

    def __init__(self, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), SlowHandler)
        self.delay = delay

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


# --- the client: nothing but requests and a queue -------------------------------------------------


def download(url: str, paths: queue.Queue[str], outcome: Outcome) -> None:
    """Downloads one path after the other until the queue is empty."""
    with requests.Session() as session:
        session.trust_env = False  # the server is local: never ask a proxy for it
        while True:
            try:
                path = paths.get_nowait()
            except queue.Empty:
                return
            response = session.get(url + path, timeout=30)
            outcome.record(path, correct=response.content == body_of(path))


# --- the program around them: async, on any backend -----------------------------------------------


@dataclass
class Outcome:
    """What one backend did."""

    backend: str
    on_download: Callable[[], object]
    downloads: int = 0
    wrong_paths: list[str] = field(default_factory=list)
    wall_time: float = 0.0
    longest_gap: float = 0.0

    def record(self, path: str, *, correct: bool) -> None:
        self.downloads += 1
        if not correct:
            self.wrong_paths.append(path)
        self.on_download()


async def heartbeat(outcome: Outcome) -> None:
    """Ticks until it is cancelled, and notes the longest time between two ticks."""
    sleep = HOST_SLEEP[outcome.backend]
    last_tick = time.perf_counter()
    try:
        while True:
            await sleep(HEARTBEAT_INTERVAL)
            now = time.perf_counter()
            outcome.longest_gap = max(outcome.longest_gap, now - last_tick)
            last_tick = now
    finally:
        # A loop that stood still until the very end leaves only this last, unfinished gap.
        outcome.longest_gap = max(outcome.longest_gap, time.perf_counter() - last_tick)


async def fetch_all(outcome: Outcome, options: argparse.Namespace) -> None:
    paths: queue.Queue[str] = queue.Queue()
    for number in range(options.downloads):
        paths.put(f"/{outcome.backend}/{number}")

    with SlowServer(options.delay) as server:
        async with aevent.TaskGroup() as background:
            background.spawn(server.serve_forever)
            background.spawn(heartbeat, outcome)

            started = time.perf_counter()
            async with aevent.TaskGroup() as workers:
                for _ in range(options.at_a_time):
                    workers.spawn(download, server.url, paths, outcome)
            # Leaving the inner group has waited for every worker.
            outcome.wall_time = time.perf_counter() - started

            # Neither the server nor the heartbeat ends by itself. Cancelling reaches the server
            # inside its `selectors` call, although it knows nothing of cancellation.
            background.cancel_scope.cancel()


# --- telling the user -----------------------------------------------------------------------------


def ideal_wall_time(options: argparse.Namespace) -> float:
    """How long the server's sleeping alone takes."""
    return float(math.ceil(options.downloads / options.at_a_time) * options.delay)


def complaints(outcome: Outcome, options: argparse.Namespace) -> list[str]:
    """What went wrong, in words; nothing if all is well."""
    found = []
    ideal = ideal_wall_time(options)
    if outcome.downloads != options.downloads:
        found.append(f"{outcome.downloads} downloads finished, {options.downloads} were asked for")
    if outcome.wrong_paths:
        found.append(
            f"{len(outcome.wrong_paths)} answers were wrong, the first for {outcome.wrong_paths[0]}"
        )
    if outcome.wall_time > options.longest_wall_time * ideal:
        found.append(
            f"the downloads took {outcome.wall_time:.2f} s, "
            f"more than {options.longest_wall_time:g} times the ideal {ideal:.2f} s"
        )
    if outcome.longest_gap > options.longest_gap:
        found.append(
            f"the event loop stood still for {outcome.longest_gap * 1000:.0f} ms, "
            f"more than {options.longest_gap * 1000:.0f} ms"
        )
    return found


def table_of(outcomes: Sequence[Outcome], options: argparse.Namespace) -> Table:
    title = (
        f"{options.downloads} downloads, {options.at_a_time} at a time, "
        f"{options.delay * 1000:g} ms each"
    )
    table = Table(title=title)
    table.add_column("backend")
    for heading in ("wall time", "ideal", "requests/s", "longest heartbeat gap"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.backend,
            f"{outcome.wall_time:.2f} s",
            f"{ideal_wall_time(options):.2f} s",
            f"{outcome.downloads / outcome.wall_time:.0f}",
            f"{outcome.longest_gap * 1000:.0f} ms",
        )
    return table


def positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Downloads with requests inside an event loop, on each backend in turn."
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=list(HOST_SLEEP),
        help="use this backend only; may be given more than once (default: all three)",
    )
    parser.add_argument("--downloads", type=positive_int, default=500, metavar="N")
    parser.add_argument("--at-a-time", type=positive_int, default=100, metavar="N")
    parser.add_argument(
        "--delay",
        type=positive_float,
        default=0.1,
        metavar="SECONDS",
        help="how long the server sleeps over each answer (default: 0.1)",
    )
    parser.add_argument(
        "--longest-wall-time",
        type=positive_float,
        default=LONGEST_WALL_TIME,
        metavar="TIMES",
        help="fail if the downloads take more than that many times the ideal (default: 2)",
    )
    parser.add_argument(
        "--longest-gap",
        type=positive_float,
        default=LONGEST_HEARTBEAT_GAP,
        metavar="SECONDS",
        help="fail if the event loop stands still for longer (default: 0.1)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    outcomes = []
    with Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        disable=options.quiet,
    ) as progress:
        for backend in options.backend or HOST_SLEEP:
            bar = progress.add_task(backend, total=options.downloads)
            outcome = Outcome(backend, on_download=partial(progress.advance, bar))
            aevent.run(fetch_all, outcome, options, backend=backend)
            outcomes.append(outcome)

    if not options.quiet:
        Console().print(table_of(outcomes, options))
    failed = False
    for outcome in outcomes:
        for complaint in complaints(outcome, options):
            print(f"fetch.py: {outcome.backend}: {complaint}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
