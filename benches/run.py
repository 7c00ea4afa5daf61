"""Measure aevent beside its peers: `python benches/run.py --help`, and README.md."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from c_programs import CompilationFailed
from processes import BenchmarkFailed, Launcher
from report import (
    Outcome,
    benchmark_table,
    machine,
    machine_lines,
    summary_table,
    write_json,
)
from suite import AEVENT, ANYIO, ASYNC_PEERS, BENCHMARKS, PEERS, Benchmark

ALL_RUNTIMES = (*AEVENT, *PEERS, "c", *ASYNC_PEERS, *ANYIO)
NEEDS = {
    "aevent": ("aevent",),
    "aevent-asyncio": ("aevent",),
    "aevent-trio": ("aevent", "trio"),
    "gevent": ("gevent",),
    "uvloop": ("uvloop",),
    "trio": ("trio",),
    "anyio-aevent": ("aevent", "anyio"),
    "anyio-asyncio": ("anyio",),
    "anyio-trio": ("anyio", "trio"),
}
"""The packages without which a runtime is left out."""

SECONDS, QUICK_SECONDS = 0.2, 0.08
"""For how long a workload measures itself, if it is free to choose."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure aevent beside gevent, plain threads, C, and for async tasks asyncio, "
        "uvloop and trio, each in fresh processes."
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        help="only this benchmark; a pattern such as 'echo-*' will do; may be repeated",
    )
    parser.add_argument(
        "--runtimes",
        metavar="NAME,…",
        default=",".join(ALL_RUNTIMES),
        help=f"only these of {', '.join(ALL_RUNTIMES)}",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds over the runtimes (default 5)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round: does it run, what is the order"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument(
        "--check", action="store_true", help="end with status 1 if a target was missed"
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else 5
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    options.runtimes = tuple(options.runtimes.split(","))
    for runtime in options.runtimes:
        if runtime not in ALL_RUNTIMES:
            parser.error(f"there is no runtime {runtime!r}; there are {', '.join(ALL_RUNTIMES)}")
    return options


def selected(names: Sequence[str] | None) -> list[Benchmark]:
    """The benchmarks that match a name or pattern; an error if a name matches none."""
    if names is None:
        return list(BENCHMARKS)
    for name in names:
        if not any(fnmatch.fnmatchcase(benchmark.name, name) for benchmark in BENCHMARKS):
            known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
            raise SystemExit(f"There is no benchmark {name!r}; there are {known}.")
    return [
        benchmark
        for benchmark in BENCHMARKS
        if any(fnmatch.fnmatchcase(benchmark.name, name) for name in names)
    ]


def available(runtimes: Sequence[str]) -> list[str]:
    """The runtimes whose package is there; says which are left out."""
    found = []
    for runtime in runtimes:
        missing = [
            package
            for package in NEEDS.get(runtime, ())
            if importlib.util.find_spec(package) is None
        ]
        if missing:
            print(f"{runtime} is left out: {' and '.join(missing)} not installed.")
        else:
            found.append(runtime)
    return found


def measure(
    launcher: Launcher, benchmark: Benchmark, runtimes: Sequence[str], *, rounds: int, quick: bool
) -> Outcome:
    """All rounds of one benchmark. The runtimes take turns, so that a machine that becomes slower
    becomes so for all of them."""
    outcome = Outcome(benchmark)
    for _ in range(min(rounds, benchmark.max_rounds or rounds)):
        for runtime in benchmark.runtimes:
            # What fails is not tried again: it would fail, or hang, in each round.
            if runtime not in runtimes or runtime in outcome.failures:
                continue
            try:
                figures = measure_once(launcher, benchmark, runtime, quick=quick)
            except (BenchmarkFailed, CompilationFailed) as failure:
                outcome.failures[runtime] = str(failure)
            else:
                outcome.rounds.setdefault(runtime, []).append(figures)
    return outcome


def measure_once(
    launcher: Launcher, benchmark: Benchmark, runtime: str, *, quick: bool
) -> dict[str, float]:
    parameters = {"seconds": QUICK_SECONDS if quick else SECONDS, **benchmark.parameters}
    if quick:
        parameters.update(benchmark.quick)
    if benchmark.load is not None:
        return launcher.measure_server(runtime, benchmark.workload, parameters, benchmark.load)
    return launcher.measure(
        runtime, benchmark.workload, parameters, slow_resolver=benchmark.slow_resolver
    )


def interrupt(number: int, frame: object) -> NoReturn:
    """Leave as with Ctrl-C, so that every process that was started is killed on the way out."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    benchmarks = selected(options.only)
    if options.list:
        for benchmark in benchmarks:
            print(f"{benchmark.name:22}{benchmark.operation}")
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    facts = machine()
    print(machine_lines(facts))
    runtimes = available(options.runtimes)
    began = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="aevent-benches-") as directory:
        launcher = Launcher(Path(directory))
        for benchmark in benchmarks:
            outcome = measure(
                launcher, benchmark, runtimes, rounds=options.rounds, quick=options.quick
            )
            outcomes.append(outcome)
            print(benchmark_table(outcome), flush=True)
    print(summary_table(outcomes))
    print(f"took {time.monotonic() - began:.0f} s")
    if options.json is not None:
        recorded = {"rounds": options.rounds, "quick": options.quick}
        write_json(options.json, facts, recorded, outcomes)
    failed = any(outcome.failures for outcome in outcomes)
    missed = any(verdict.is_missed for outcome in outcomes for verdict in outcome.verdicts())
    return 1 if failed or (options.check and missed) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
