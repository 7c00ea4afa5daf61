"""What the patched run of a module loses against the plain one, and the table of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from driver import Outcome, Results
from known import Known


class Comparison(NamedTuple):
    """One module on one backend, against plain Python."""

    module: str
    skipped: str | None
    plain_passed: int
    patched_passed: int
    failures: dict[str, Outcome]
    """Passed plainly, not patched, and not listed."""
    listed: dict[str, Outcome]
    """The same, listed in `known_failures.toml`."""
    unexpected: list[str]
    """Listed, and passed."""
    only_alone: list[str]
    """Failed among the others, and passed alone in a fresh process."""
    seconds: float

    @property
    def hung(self) -> int:
        return sum(outcome.what == "hung" for outcome in self.failures.values())

    @property
    def good(self) -> bool:
        return not self.failures and not self.unexpected


def compare(
    module: str, plain: Results, patched: Results, known: dict[str, Known], backend: str
) -> Comparison:
    """Only what passes plainly counts."""
    failures: dict[str, Outcome] = {}
    listed: dict[str, Outcome] = {}
    unexpected: list[str] = []
    only_alone: list[str] = []
    passed = 0
    plain_passed = [name for name, outcome in plain.tests.items() if outcome.what == "passed"]
    for name in plain_passed:
        test = name if name.startswith("test.") else f"test.{module} {name}"
        entry = known.get(test)
        if entry is not None and not entry.concerns(backend):
            entry = None
        outcome = patched.tests.get(name) or Outcome("not run", _why(patched))
        if outcome.what == "passed":
            passed += 1
            if outcome.alone:
                only_alone.append(test)
            if entry is not None:
                unexpected.append(test)
        elif entry is not None:
            listed[test] = outcome
        else:
            failures[test] = outcome
    return Comparison(
        module,
        plain.skipped,
        len(plain_passed),
        passed,
        failures,
        listed,
        unexpected,
        only_alone,
        patched.seconds,
    )


def _why(patched: Results) -> str:
    if patched.skipped is not None:
        return f"the module skips itself when it is patched: {patched.skipped}"
    return "\n".join(outcome.detail for outcome in patched.tests.values() if outcome.detail)[:2000]


def total(name: str, parts: Iterable[Comparison]) -> Comparison:
    """Several comparisons as one line."""
    parts = list(parts)
    return Comparison(
        name,
        next((part.skipped for part in parts if part.skipped), None)
        if not any(part.plain_passed for part in parts)
        else None,
        sum(part.plain_passed for part in parts),
        sum(part.patched_passed for part in parts),
        {test: outcome for part in parts for test, outcome in part.failures.items()},
        {test: outcome for part in parts for test, outcome in part.listed.items()},
        [test for part in parts for test in part.unexpected],
        [test for part in parts for test in part.only_alone],
        round(sum(part.seconds for part in parts), 1),
    )


HEADER = (
    f"{'module':36} {'plain':>6} {'patched':>8} {'failed':>7} {'hung':>5} {'listed':>7} "
    f"{'alone':>6} {'s':>7}"
)


def line(each: Comparison) -> str:
    """A line of the table."""
    if each.skipped is not None:
        return f"{each.module:36} skipped: {each.skipped}"
    hung = each.hung
    return (
        f"{each.module:36} {each.plain_passed:6} {each.patched_passed:8} "
        f"{len(each.failures) - hung:7} {hung:5} {len(each.listed):7} "
        f"{len(each.only_alone):6} {each.seconds:7}"
    )
