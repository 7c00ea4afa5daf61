"""Turn the figures of all rounds into medians, tables, verdicts and a file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from suite import METRIC_NAMES, Benchmark, Target

Figures = Mapping[str, float]

PACKAGES = ("aevent", "gevent", "greenlet", "uvloop", "trio", "anyio")


@dataclass
class Outcome:
    """What came out of one benchmark: the figures of each runtime's rounds, and its failures."""

    benchmark: Benchmark
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            runtime: {
                name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]
            }
            for runtime, rounds in self.rounds.items()
        }

    def spread(self, runtime: str) -> float:
        """How far the CPU figures of the rounds lie apart, relative to their median."""
        figures = [figures["cpu"] for figures in self.rounds[runtime]]
        return (max(figures) - min(figures)) / statistics.median(figures)

    def verdicts(self) -> list[Verdict]:
        medians = self.medians()
        return [
            Verdict(self.benchmark, target, target.figure(medians))
            for target in self.benchmark.targets
        ]


@dataclass(frozen=True)
class Verdict:
    """A target and the figure it is compared with, None if that was not measured."""

    benchmark: Benchmark
    target: Target
    figure: float | None

    @property
    def is_missed(self) -> bool:
        """A target that was measured and missed; an informative one never is."""
        return (
            self.figure is not None
            and not self.target.informative
            and not self.target.is_met_by(self.figure)
        )

    def __str__(self) -> str:
        if self.figure is None:
            return "not measured"
        if self.target.is_met_by(self.figure):
            return "met"
        return "not met" if self.target.informative else "MISSED"


def benchmark_table(outcome: Outcome) -> str:
    """The figures of one benchmark, and its targets below them."""
    medians = outcome.medians()
    has_rss = any("rss" in figures for figures in medians.values())
    has_latency = any("p50" in figures for figures in medians.values())
    compared = outcome.benchmark.compared
    header = ["runtime", "wall ns/op", "CPU ns/op", "spread"]
    header += [f"{other}/it" for other in compared]
    header += [f"wall: {compared[0]}/it"]
    if has_rss:
        header += ["bytes/op"]
    if has_latency:
        header += ["p50 µs", "p99 µs"]
    rows = [header]
    for runtime in outcome.benchmark.runtimes:
        if runtime in outcome.failures and runtime not in medians:
            rows.append([runtime, "-", "-"])
            continue
        if runtime not in medians:
            continue
        mine = medians[runtime]
        row = [runtime, f"{mine['wall']:,.0f}", f"{mine['cpu']:,.0f}"]
        row += [_spread(outcome, runtime)]
        row += [_ratio(medians, other, runtime, "cpu") for other in compared]
        row += [_ratio(medians, compared[0], runtime, "wall")]
        if has_rss:
            row += [f"{mine['rss']:,.0f}"]
        if has_latency:
            row += [f"{mine['p50'] / 1e3:,.0f}", f"{mine['p99'] / 1e3:,.0f}"]
        rows.append(row)
    lines = [f"{outcome.benchmark.name}: {outcome.benchmark.operation}", *_aligned(rows)]
    for runtime, failure in outcome.failures.items():
        lines.append(f"  {runtime} failed: {failure}")
    for verdict in outcome.verdicts():
        lines.append(f"  {verdict.target.runtime}: {verdict.target}: {_verdict(verdict)}")
    return "\n".join(lines) + "\n"


def summary_table(outcomes: Iterable[Outcome]) -> str:
    """All targets, one a line, and how many were met."""
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts()]
    rows = [["benchmark", "runtime", "is", "verdict", "target"]]
    for verdict in verdicts:
        figure = "-" if verdict.figure is None else f"{verdict.figure:.2f}"
        target = verdict.target
        rows.append([verdict.benchmark.name, target.runtime, figure, str(verdict), str(target)])
    counted = [verdict for verdict in verdicts if not verdict.target.informative]
    measured = [verdict for verdict in counted if verdict.figure is not None]
    missed = sum(verdict.is_missed for verdict in measured)
    total = (
        f"{len(measured) - missed} of {len(counted)} targets met, {missed} missed, "
        f"{len(counted) - len(measured)} not measured"
    )
    return "\n".join(["Targets", *_aligned(rows, left=(0, 1, 3, 4)), total])


def _ratio(medians: Mapping[str, Figures], other: str, runtime: str, metric: str) -> str:
    if other not in medians or medians[runtime][metric] <= 0:
        return ""
    return f"{medians[other][metric] / medians[runtime][metric]:.2f}"


def _spread(outcome: Outcome, runtime: str) -> str:
    return f"{outcome.spread(runtime):.0%}" if len(outcome.rounds[runtime]) > 1 else "-"


def _verdict(verdict: Verdict) -> str:
    return str(verdict) if verdict.figure is None else f"{verdict.figure:.2f}, {verdict}"


def _aligned(rows: Sequence[Sequence[str]], *, left: tuple[int, ...] = (0,)) -> list[str]:
    widths = [0] * max(len(row) for row in rows)
    for row in rows:
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell))
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def machine() -> dict[str, Any]:
    """The machine, the date and the versions: a figure without them is worth nothing."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "usable cores": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "load average": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **_package_versions()},
    }


def machine_lines(facts: Mapping[str, Any]) -> str:
    described = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['date']}\n{described}\n{versions}\n"


def write_json(
    path: Path, facts: Mapping[str, Any], options: Mapping[str, Any], outcomes: Iterable[Outcome]
) -> None:
    """Everything that was measured, round by round, with the verdicts."""
    benchmarks = {
        outcome.benchmark.name: {
            "operation": outcome.benchmark.operation,
            "parameters": dict(outcome.benchmark.parameters),
            "medians": outcome.medians(),
            "rounds": outcome.rounds,
            "failures": outcome.failures,
            "targets": [
                {
                    "runtime": verdict.target.runtime,
                    "target": str(verdict.target),
                    "metric": METRIC_NAMES[verdict.target.metric],
                    "figure": verdict.figure,
                    "verdict": str(verdict),
                }
                for verdict in outcome.verdicts()
            ],
        }
        for outcome in outcomes
    }
    content = {**facts, "options": dict(options), "benchmarks": benchmarks}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
