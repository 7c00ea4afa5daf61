"""Compile the C programs in `c/`: the load generator, the yardstick server, the slow resolver."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "c"


class CompilationFailed(Exception):
    """There is no C compiler that works, so what needs the C programs cannot be measured."""


def compile_program(name: str, directory: Path) -> Path:
    """Compile `c/{name}.c` into `directory`; return the program."""
    return _compile(name, directory / name, "-O2")


def compile_preload(name: str, directory: Path) -> Path:
    """Compile `c/{name}.c` into a library for LD_PRELOAD; return it."""
    return _compile(name, directory / f"{name}.so", "-O2", "-shared", "-fPIC")


def _compile(name: str, result: Path, *flags: str) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CompilationFailed("No C compiler was found. Install one, or name it in CC.")
    source = SOURCES / f"{name}.c"
    command = [compiler, *flags, "-o", str(result), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompilationFailed(f"{' '.join(command)} failed: {done.stderr}")
    return result
