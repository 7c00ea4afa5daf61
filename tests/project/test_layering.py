"""Dependencies run one way.

    runtime crate <- bindings <- contract <- adapters, primitives <- monkey <- integrations <- front
    <- testing

An arrow's right side may import its left side, never the other way round. An import that is there
for type checkers only does not count: nothing is imported when the program runs.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "aevent"

# From the lowest layer to the highest; the first pattern that matches a module's name counts.
LAYERS = {
    # The saved functions of the standard library. Whoever needs one that must work unpatched takes
    # it from here, so this imports nothing of ours.
    "originals": r"aevent\._monkey\.originals",
    "bindings": r"aevent\._core",
    "exceptions": r"aevent\._exceptions",
    "contract": r"aevent\.(_backend|_host_scopes)",
    "adapters": r"aevent\._backends(\..*)?",
    "monkey": r"aevent\._monkey(\..*)?",
    "integrations": r"aevent\.integrations(\..*)?",
    # Runs programs as their users do.
    "testing": r"aevent\.testing(\..*)?",
    # Ties the others together for the user.
    "front": r"aevent|aevent\.__main__|aevent\._setup|aevent\._doctor",
    "primitives": r"aevent\..*",
}

BELOW_CONTRACT = {"originals", "bindings", "exceptions"}
BELOW_MONKEY = {*BELOW_CONTRACT, "contract", "primitives"}
# Which layers, other than itself, each may import. Adapters and primitives stand side by side and
# know nothing of each other: the contract is all that they share.
MAY_IMPORT: dict[str, set[str]] = {
    "originals": set(),
    "bindings": set(),
    "exceptions": {"bindings"},
    "contract": BELOW_CONTRACT,
    "adapters": {*BELOW_CONTRACT, "contract"},
    "primitives": {*BELOW_CONTRACT, "contract"},
    "monkey": BELOW_MONKEY,
    "integrations": {*BELOW_MONKEY, "monkey"},
    "front": {*BELOW_MONKEY, "monkey", "integrations"},
    "testing": {*BELOW_MONKEY, "monkey", "integrations", "front"},
}


def layer_of(module: str) -> str:
    return next(layer for layer, pattern in LAYERS.items() if re.fullmatch(pattern, module))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files() -> list[Path]:
    # rglob() does not follow the link, so the adapters are looked up behind it.
    files = {*PACKAGE.rglob("*.py"), *(PACKAGE / "_backends").glob("*.py")}
    return sorted(files)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    stub = path.with_suffix(".pyi")
    return path.is_dir() or path.with_suffix(".py").exists() or stub.exists()


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and all below it, except what is there for type checkers only."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for otherwise in child.orelse:
                yield from running_nodes(otherwise)
        else:
            yield from running_nodes(child)


def imported_modules(source: str, module: str, *, is_package: bool) -> set[str]:
    """The modules of aevent that this source imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                parents = package[: len(package) - (node.level - 1)]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                # `from aevent import _core` imports a module, `from aevent import run` a name.
                inner = f"{base}.{alias.name}"
                found.add(inner if base.startswith("aevent") and is_module(inner) else base)
    return {name for name in found if name.split(".")[0] == "aevent"}


@pytest.mark.parametrize("path", source_files(), ids=lambda path: module_name(path))
def test_module_imports_only_what_is_below_it(path: Path) -> None:
    module = module_name(path)
    layer = layer_of(module)
    imported = imported_modules(path.read_text(), module, is_package=path.name == "__init__.py")
    allowed = {layer, *MAY_IMPORT[layer]}
    wrong = sorted(name for name in imported if layer_of(name) not in allowed)
    assert not wrong, f"{module} ({layer}) imports {wrong}; see the head of this file"


def test_imports_are_found_in_all_their_forms() -> None:
    source = """
from __future__ import annotations
import aevent._core
from . import _backend
from ._monkey import patcher
from .nowhere import name
import trio
if TYPE_CHECKING:
    from . import _exceptions
def function():
    from aevent.integrations.anyio import Backend
"""
    assert imported_modules(source, "aevent._run", is_package=False) == {
        "aevent._core",
        "aevent._backend" if is_module("aevent._backend") else "aevent",
        "aevent._monkey.patcher" if is_module("aevent._monkey.patcher") else "aevent._monkey",
        "aevent.nowhere",
        "aevent.integrations.anyio",
    }


@pytest.mark.parametrize("library", ["asyncio", "trio", "anyio"])
def test_importing_aevent_does_not_import_an_async_library(library: str) -> None:
    # In a fresh interpreter: pytest's plugins have imported them all here.
    program = f"import aevent, sys; sys.exit({library!r} in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert result.returncode == 0


def test_scheduler_crate_knows_nothing_of_python() -> None:
    manifest = (ROOT / "rust/runtime/Cargo.toml").read_text()
    assert not re.search(r"^\W*(pyo3|python3-sys|aevent-python)", manifest, re.MULTILINE)
    assert not re.search(r"^\[.*dependencies\.(pyo3|aevent-python)", manifest, re.MULTILINE)
    for path in (ROOT / "rust/runtime").rglob("*.rs"):
        assert not re.search(r"\bpyo3::|^use pyo3", path.read_text(), re.MULTILINE), path
