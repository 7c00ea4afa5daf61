"""Packages that wait in C and let others choose how: a file for each.

Each is told when it is imported, by `setup()` or later.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from .._imports import when_imported
from . import anyio, httpx
from .anyio import host_groups

#: The package, which is also the name of the file here, to its module that has to be imported.
MODULES = {
    "psycopg": "psycopg.waiting",
    "psycopg2": "psycopg2.extensions",
}

#: Those that were told, in order.
applied: list[str] = []


def install(excluded: Iterable[str]) -> None:
    """Has each package told when it is imported, unless it is excluded."""
    if "anyio" not in excluded:
        host_groups.install()
    for package, module in MODULES.items():
        if package not in excluded:
            when_imported(module, _Tell(package))


def register_backend() -> None:
    """Has anyio know the backend "aevent", and those who ask for backends by name accept it.

    Now, or when they are imported; imports nothing of theirs.
    """
    when_imported("anyio._core._eventloop", anyio.apply)
    when_imported("httpcore._synchronization", httpx.apply_to_httpcore)
    when_imported("httpx._transports.asgi", httpx.apply_to_asgi)


class _Tell:
    __slots__ = ("package",)

    def __init__(self, package: str) -> None:
        self.package = package

    def __call__(self, module: ModuleType) -> None:
        # Imported here since hardly any program needs it.
        if importlib.import_module(f".{self.package}", __name__).apply(module):
            applied.append(self.package)
