"""The tests that are known to fail patched, with the reason of each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("known_failures.toml")


class Known(NamedTuple):
    """One entry of `known_failures.toml`."""

    test: str
    reason: str
    backends: tuple[str, ...]
    pythons: tuple[str, ...]

    def concerns(self, backend: str) -> bool:
        """Whether it is about this Python and this backend."""
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (not self.backends or backend in self.backends) and (
            not self.pythons or python in self.pythons
        )


def load(path: Path = FILE) -> dict[str, Known]:
    """Every entry, by the name of its test."""
    with path.open("rb") as file:
        data: dict[str, dict[str, Any]] = tomllib.load(file)
    entries = {}
    for test, entry in data.items():
        unknown = entry.keys() - {"reason", "backends", "pythons"}
        if unknown or not entry.get("reason"):
            raise ValueError(f"{path}: {test} needs a reason, and may have backends and pythons")
        entries[test] = Known(
            test,
            entry["reason"],
            tuple(entry.get("backends", ())),
            tuple(entry.get("pythons", ())),
        )
    return entries
