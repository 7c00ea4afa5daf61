"""aevent as a backend of anyio: `anyio.run(main, backend="aevent")` runs on the native scheduler.

`import aevent` registers the name; what is here is imported when the backend is first asked for.
anyio's contract for backends is not public and grows with its minor versions, so each is admitted
when its own tests have passed: see `SUPPORTED`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from types import ModuleType
from typing import Any

from ..._exceptions import AeventError

#: The name that `anyio.run` knows us by.
NAME = "aevent"

#: The versions of anyio whose contract is fulfilled here: from the first to before the second.
SUPPORTED = ((4, 16), (4, 17))


def apply(module: ModuleType) -> bool:
    """Registers the backend with `anyio._core._eventloop`, which has just been imported."""
    module.loaded_backends.setdefault(NAME, _Unloaded)
    return True


def check_version() -> None:
    """AeventError unless the installed anyio is one of those that are supported."""
    version = importlib.metadata.version("anyio")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    first, end = SUPPORTED
    if not first <= numbers < end:
        raise AeventError(
            f"the anyio backend {NAME!r} works with anyio {_dotted(first)} up to but not including "
            f"{_dotted(end)}, but anyio {version} is installed: "
            f"pip install 'anyio>={_dotted(first)},<{_dotted(end)}', or another version of aevent"
        )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


class _LoadedWhenUsed(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            # Somebody only looks at it.
            raise AttributeError(name)
        check_version()
        # Imported here: it imports most of anyio, which is being imported itself when we register.
        backend = importlib.import_module(f"{__name__}.backend").Backend
        loaded = importlib.import_module("anyio._core._eventloop").loaded_backends
        if loaded.get(NAME) is cls:
            loaded[NAME] = backend
        return getattr(backend, name)


class _Unloaded(metaclass=_LoadedWhenUsed):
    """Stands for the backend until its first use."""
