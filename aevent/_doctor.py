"""What is patched, what is not, and what blocks: for whoever wonders why a program stands still."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from . import _blocking, _offload, _run, integrations
from ._monkey import patcher, rebind


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` has found. `str()` of it is the report."""

    backend: str | None
    """What `setup()` has chosen; None if it was not called."""
    patched: dict[str, list[str]]
    """Module of the standard library to what is patched in it."""
    rebound: list[rebind.Finding]
    """Where something was that had been taken before `setup()`, and was replaced."""
    unmended: list[rebind.Finding]
    """Where it could not be, and why not."""
    blocking: list[_blocking.Blocking]
    """C extensions that are loaded, are known to block and have no rule."""
    rules: list[_offload.Offloaded]
    """The rules of `offloaded()`."""
    drivers: list[str]
    """Packages that wait in C and were told how to in tasks."""

    def __str__(self) -> str:
        lines = [f"aevent on {_describe_python()}"]
        if self.backend is None:
            lines.append("setup() was not called: nothing is patched.")
        else:
            lines.append(f"set up for the backend {self.backend!r}")
        lines += _section("Patched", _table((m, ", ".join(n)) for m, n in self.patched.items()))
        lines += _section(
            "Taken before setup(), and replaced",
            _table((f"{found.module}.{found.name}", found.what) for found in self.rebound),
        )
        lines += _section(
            "Taken before setup(), and not to be replaced: call setup() earlier",
            _table((f"{found.module}.{found.name}", found.what) for found in self.unmended),
        )
        lines += _section(
            "Loaded extensions that block the loop in C",
            _table(
                (known.package, f"{known.blocks}. Remedy: {known.remedy}")
                for known in self.blocking
            ),
        )
        lines += _section(
            "Offloaded to real threads by rule",
            _table(
                (rule.name, "" if rule.is_applied else "not imported yet") for rule in self.rules
            ),
        )
        lines += _section(
            "Drivers that were told how to wait", [f"  {driver}" for driver in self.drivers]
        )
        return "\n".join(lines)


def _describe_python() -> str:
    greenlet = sys.modules.get("greenlet")
    version = getattr(greenlet, "__version__", "?")
    return f"{platform.python_implementation()} {platform.python_version()}, greenlet {version}"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *lines] if lines else []


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    # One long name is not to push all others to the right.
    width = min(max((len(name) for name, _ in rows), default=0), 32)
    lines = []
    for name, text in rows:
        indent = " " * (width + 4)
        line = f"  {name:{width}}  "
        for word in text.split(" "):
            if len(line) + len(word) > 100 and line.strip():
                lines.append(line.rstrip())
                line = indent
            line += word + " "
        lines.append(line.rstrip())
    return lines


def _patched() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for patch in patcher.patches:
        if isinstance(patch.owner, type):
            module, name = patch.owner.__module__, f"{patch.owner.__qualname__}.{patch.name}"
        else:
            module, name = patch.owner.__name__, patch.name
        if not patch.name.startswith("_"):
            names = found.setdefault(module, [])
            if name not in names:
                names.append(name)
    return found


def doctor(file: TextIO | None = None) -> Diagnosis:
    """Prints what is patched, what had been taken too early, and what is loaded that blocks in C.

    Prints to `file`, by default standard output, and returns what it has found. Ask it when a
    program stands still, after everything was imported. May be called in any OS thread.
    """
    rules = list(_offload.rules)
    diagnosis = Diagnosis(
        backend=_run.chosen_backend,
        patched=_patched(),
        rebound=list(rebind.rebound),
        unmended=list(rebind.unmended),
        blocking=[
            known
            for known in _blocking.loaded(dict(sys.modules))
            if not any(rule.name.partition(".")[0] == known.package for rule in rules)
        ],
        rules=rules,
        drivers=list(integrations.applied),
    )
    print(diagnosis, file=file)
    return diagnosis
