"""The benchmarks: which workload, with what parameters, under which runtimes, with what targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from processes import Load

NATIVE = ("aevent",)
HOSTED = ("aevent-asyncio", "aevent-trio")
AEVENT = NATIVE + HOSTED
PEERS = ("gevent", "threads")
ASYNC_PEERS = ("asyncio", "uvloop", "trio")
ANYIO = ("anyio-aevent", "anyio-asyncio", "anyio-trio")

Metric = Literal["cpu", "wall", "rss"]
METRIC_NAMES: Mapping[Metric, str] = {"cpu": "CPU", "wall": "wall time", "rss": "memory"}


@dataclass(frozen=True)
class Target:
    """What a runtime's figure is to be, compared with another's.

    With `faster`, the other's figure divided by ours must reach `bound`; without, ours divided by
    the other's must not exceed it. The other may be `ideal`, the workload's own ideal wall time.
    """

    bound: float
    other: str
    faster: bool
    runtime: str = "aevent"
    metric: Metric = "cpu"
    informative: bool = False

    def __str__(self) -> str:
        metric = METRIC_NAMES[self.metric]
        if self.faster:
            text = f"{metric}: {self.other} takes ≥ {self.bound:g} times as much"
        else:
            text = f"{metric}: ≤ {self.bound:g} of {self.other}"
        return f"{text} (informative)" if self.informative else text

    def figure(self, figures: Mapping[str, Mapping[str, float]]) -> float | None:
        """The ratio that is compared with the bound; None if a runtime was not measured."""
        ours = figures.get(self.runtime, {}).get(self.metric)
        if self.other == "ideal":
            theirs = figures.get(self.runtime, {}).get("ideal wall")
        else:
            theirs = figures.get(self.other, {}).get(self.metric)
        if ours is None or theirs is None:
            return None
        dividend, divisor = (theirs, ours) if self.faster else (ours, theirs)
        return dividend / divisor if divisor > 0 else None

    def is_met_by(self, figure: float) -> bool:
        return figure >= self.bound if self.faster else figure <= self.bound


def at_least(
    bound: float, other: str = "gevent", *, runtimes: tuple[str, ...] = NATIVE
) -> tuple[Target, ...]:
    """The other's CPU time is at least `bound` times that of each of the runtimes."""
    return tuple(Target(bound, other, True, runtime) for runtime in runtimes)


def at_most(
    bound: float,
    other: str = "gevent",
    *,
    runtimes: tuple[str, ...] = NATIVE,
    metric: Metric = "cpu",
    informative: bool = False,
) -> tuple[Target, ...]:
    """The figure of each of the runtimes is at most `bound` times the other's."""
    return tuple(Target(bound, other, False, runtime, metric, informative) for runtime in runtimes)


@dataclass(frozen=True)
class Benchmark:
    """One workload with one set of parameters.

    `quick` overrides `parameters` under --quick. `max_rounds` limits the rounds of what takes long
    or hardly varies. With a `load`, the workload is a server. `compared` are the runtimes by which
    the table divides.
    """

    name: str
    operation: str
    workload: str
    runtimes: tuple[str, ...]
    targets: tuple[Target, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)
    quick: Mapping[str, object] = field(default_factory=dict)
    max_rounds: int | None = None
    load: Load | None = None
    slow_resolver: bool = False
    compared: tuple[str, ...] = PEERS


def yields(threads: int, *, peers: tuple[str, ...], native: float) -> Benchmark:
    return Benchmark(
        name=f"yield-{threads}",
        operation=f"one time.sleep(0) among {threads:,} threads",
        workload="sleep_zero",
        parameters={"threads": threads},
        runtimes=AEVENT + peers,
        targets=at_least(native) + at_least(4, runtimes=HOSTED),
        max_rounds=3 if threads > 1000 else None,
    )


def thread_start(name: str, kind: str, operation: str, bound: float) -> Benchmark:
    return Benchmark(
        name=f"thread-{name}",
        operation=operation,
        workload="thread_start",
        parameters={"kind": kind},
        runtimes=AEVENT + PEERS,
        targets=at_least(bound),
    )


def spawn(name: str, blocking: bool, bound: float) -> Benchmark:
    return Benchmark(
        name=name,
        operation="TaskGroup.spawn or gevent.spawn of a function that "
        + ("blocks once" if blocking else "never blocks"),
        workload="spawn",
        parameters={"blocking": blocking},
        runtimes=(*AEVENT, "gevent"),
        targets=at_least(bound),
    )


def lock_hand_over(name: str, kind: str, threads: int, operation: str) -> Benchmark:
    return Benchmark(
        name=name,
        operation=operation,
        workload="lock",
        parameters={"kind": kind, "threads": threads},
        runtimes=AEVENT + PEERS,
        targets=at_least(4, runtimes=AEVENT),
    )


def free_lock(name: str, kind: str, operation: str, *, informative: bool = False) -> Benchmark:
    return Benchmark(
        name=name,
        operation=operation,
        workload="lock",
        parameters={"kind": kind},
        # Nothing here reaches the loop, so it makes no difference who drives it.
        runtimes=NATIVE + PEERS,
        targets=at_most(1.2, "threads", informative=informative),
    )


def ping_pong(kind: str) -> Benchmark:
    return Benchmark(
        name=f"{kind}-ping-pong",
        operation="one turn of two threads",
        workload="ping_pong",
        parameters={"kind": kind},
        runtimes=AEVENT + PEERS,
        targets=at_least(3),
    )


def queue(queue_class: str, kind: str, targets: tuple[Target, ...]) -> Benchmark:
    return Benchmark(
        name=f"{queue_class.lower()}-{kind}",
        operation=f"one put into and one get from a queue.{queue_class}, by two threads",
        workload="queues",
        parameters={"queue_class": queue_class, "kind": kind},
        runtimes=AEVENT + PEERS,
        targets=targets,
    )


def echo(connections: int, targets: tuple[Target, ...], *, threads: bool) -> Benchmark:
    return Benchmark(
        name=f"echo-{connections}",
        operation=f"one request of 64 bytes; {connections:,} connections, a thread for each",
        workload="echo_server",
        runtimes=(*AEVENT, "gevent", *(("threads",) if threads else ()), "c"),
        targets=at_most(0.6) + at_most(1.5, "c") + at_most(0.75, runtimes=HOSTED) + targets,
        load=Load(connections),
        max_rounds=4,
    )


def web(name: str, *, keep_alive: bool) -> Benchmark:
    return Benchmark(
        name=name,
        operation="one GET from http.server, 50 at a time"
        + ("" if keep_alive else ", a connection for each"),
        workload="web_server",
        parameters={"keep_alive": keep_alive},
        runtimes=AEVENT + PEERS,
        targets=at_least(1.4),
        load=Load(50, http="keep-alive" if keep_alive else "close"),
        max_rounds=3,
    )


def tls(name: str, kind: str, operation: str, bound: float, *, size: int = 64) -> Benchmark:
    return Benchmark(
        name=name,
        operation=f"{operation}; 50 connections, both ends in one process",
        workload="tls_echo",
        parameters={"connections": 50, "kind": kind, "size": size},
        runtimes=AEVENT + PEERS,
        targets=at_least(bound, runtimes=AEVENT),
        max_rounds=3,
    )


def pipes(name: str, kind: str, operation: str, *, rounds: int | None = None) -> Benchmark:
    return Benchmark(
        name=name,
        operation=operation,
        workload="pipes",
        parameters={"kind": kind},
        runtimes=AEVENT + PEERS,
        targets=at_most(1),
        max_rounds=rounds,
    )


def thread_pool(name: str, kind: str, operation: str) -> Benchmark:
    return Benchmark(
        name=name,
        operation=operation,
        workload="thread_pool",
        parameters={"kind": kind},
        runtimes=AEVENT + PEERS,
        targets=at_most(1) + at_most(1, "threads"),
        max_rounds=3,
    )


def asynchronous(
    name: str,
    workload: str,
    operation: str,
    targets: tuple[Target, ...],
    parameters: Mapping[str, object] | None = None,
    *,
    quick: Mapping[str, object] | None = None,
    rounds: int | None = None,
) -> Benchmark:
    """One of async tasks: each runtime's own API, which on aevent is the native backend's."""
    return Benchmark(
        name=f"async-{name}",
        operation=operation,
        workload=f"async_{workload}",
        runtimes=NATIVE + ASYNC_PEERS,
        targets=targets,
        parameters=parameters or {},
        quick=quick or {},
        max_rounds=rounds,
        compared=ASYNC_PEERS,
    )


def through_anyio(
    name: str, workload: str, operation: str, parameters: Mapping[str, object] | None = None
) -> Benchmark:
    """The same program of anyio's on each backend of its."""
    return Benchmark(
        name=f"anyio-{name}",
        operation=operation,
        workload=workload,
        runtimes=ANYIO,
        targets=at_most(0.5, "anyio-asyncio", runtimes=("anyio-aevent",)),
        parameters=parameters or {},
        compared=("anyio-asyncio", "anyio-trio"),
    )


SWITCH, SPAWN, SCOPE, STREAM = (
    "one sleep(0) among {} async tasks",
    "one async task that does nothing, started in a group of 100 and joined",
    "one move_on_after or asyncio.timeout, entered and left",
    "one item through a memory object stream, sent by one task and received by another",
)
CANCEL, CANCEL_ONLY = (
    "one async task, started in a group of 1000, cancelled where it waits, and joined",
    "the same, measured from the cancellation on",
)

BENCHMARKS = (
    yields(2, peers=PEERS, native=5),
    yields(100, peers=PEERS, native=5),
    yields(10_000, peers=("gevent",), native=4),
    thread_start("bare", "bare", "_thread.start_new_thread, never blocking", 10),
    thread_start("bare-blocking", "bare blocking", "_thread.start_new_thread, blocking once", 8),
    spawn("spawn", False, 10),
    spawn("spawn-blocking", True, 8),
    thread_start("join", "joined", "threading.Thread, start and join, one at a time", 3),
    thread_start("join-batch", "joined batch", "threading.Thread, start and join, 100 at once", 3),
    lock_hand_over("lock-ring-2", "ring", 2, "one hand-over of a lock between 2 threads"),
    lock_hand_over("lock-ring-100", "ring", 100, "one hand-over of a lock among 100 threads"),
    lock_hand_over(
        "lock-contended", "contended", 10, "one hand-over and one yield; 10 threads want one lock"
    ),
    free_lock("lock-free", "acquire and release", "acquire and release of a free lock"),
    free_lock("lock-free-with", "with", "'with' on a free lock"),
    free_lock("rlock-free-with", "with RLock", "'with' on a free RLock", informative=True),
    ping_pong("event"),
    ping_pong("condition"),
    queue("Queue", "stream", at_least(1.5)),
    queue("Queue", "ping-pong", at_least(1.5)),
    queue("SimpleQueue", "stream", at_most(1, "threads")),
    queue("SimpleQueue", "ping-pong", at_most(1, "threads")),
    Benchmark(
        name="sleepers",
        operation="one time.sleep of 1 to 50 ms, among 10,000 threads",
        workload="sleepers",
        parameters={"threads": 10_000, "sleeps": 10},
        quick={"sleeps": 5},
        runtimes=(*AEVENT, "gevent"),
        targets=at_most(0.25) + at_most(1.2, "ideal", metric="wall"),
        max_rounds=3,
    ),
    echo(
        1,
        at_most(1, "threads") + at_most(1, "threads", metric="wall") + at_most(1, metric="wall"),
        threads=True,
    ),
    echo(50, (), threads=True),
    echo(1000, (), threads=False),
    web("http-keep-alive", keep_alive=True),
    web("http-close", keep_alive=False),
    pipes("pipe-ping-pong", "ping-pong", "one byte there and back through two pipes, two threads"),
    pipes("subprocess-run", "children", 'one subprocess.run(["true"])', rounds=3),
    tls("tls-echo-50", "echo", "one request of 64 bytes over TLS", 1.2),
    tls("tls-echo-64k", "echo", "one request of 64 KiB over TLS", 1, size=1 << 16),
    tls("tls-handshake", "handshake", "one TLS connection, with one request", 1),
    Benchmark(
        name="look-ups",
        operation="30 look-ups of 50 ms each, all at once",
        workload="look_ups",
        parameters={"threads": 30},
        runtimes=AEVENT + PEERS,
        targets=at_most(1.1, "threads", metric="wall"),
        slow_resolver=True,
    ),
    Benchmark(
        name="parked-threads",
        operation="one threading.Thread, parked in the wait of its threading.Event",
        workload="parked_threads",
        parameters={"threads": 100_000},
        quick={"threads": 20_000},
        runtimes=(*NATIVE, "gevent"),
        targets=at_most(0.7, metric="rss"),
        max_rounds=2,
    ),
    thread_pool("executor", "executor", "one item of ThreadPoolExecutor(32).map"),
    thread_pool(
        "multiprocessing-pool", "multiprocessing", "one item of multiprocessing's ThreadPool(32)"
    ),
    asynchronous("switch-2", "switch", SWITCH.format(2), at_most(0.3, "uvloop"), {"tasks": 2}),
    asynchronous(
        "switch-100", "switch", SWITCH.format(100), at_most(0.3, "uvloop"), {"tasks": 100}
    ),
    asynchronous("spawn", "spawn", SPAWN, at_most(0.6, "uvloop")),
    asynchronous(
        "cancel", "cancel", CANCEL, at_most(0.5, "uvloop"), {"tasks": 1000, "with_start": True}
    ),
    asynchronous(
        "cancel-only",
        "cancel",
        CANCEL_ONLY,
        at_most(0.5, "uvloop"),
        {"tasks": 1000, "with_start": False},
    ),
    asynchronous("scope", "scope", SCOPE, at_most(0.3, "asyncio")),
    asynchronous(
        "sleepers",
        "sleepers",
        "one sleep of 1 to 50 ms, among 10,000 async tasks",
        at_most(0.4, "asyncio"),
        {"tasks": 10_000, "sleeps": 10},
        quick={"sleeps": 3},
        rounds=3,
    ),
    asynchronous(
        "parked",
        "parked",
        "one async task, parked in the wait of its event",
        at_most(1, "asyncio", metric="rss"),
        {"tasks": 100_000},
        quick={"tasks": 20_000},
        rounds=2,
    ),
    through_anyio("switch", "async_switch", SWITCH.format(100), {"tasks": 100}),
    through_anyio("spawn", "async_spawn", SPAWN),
    through_anyio("cancel", "async_cancel", CANCEL, {"tasks": 1000, "with_start": True}),
    through_anyio("scope", "async_scope", SCOPE),
    through_anyio("stream", "anyio_stream", STREAM),
)
