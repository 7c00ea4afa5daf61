"""The wheel has everything in it that `import aevent` needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel_members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    # A release build, because `make build` has made one: cargo then only has to link.
    # "linux": which other distributions the wheel would run on is of no interest here.
    options = ["--compatibility", "linux", "--interpreter", sys.executable, "--out", str(folder)]
    built = subprocess.run(
        [sys.executable, "-m", "maturin", "build", "--release", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    (wheel,) = folder.glob("aevent-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def importable_files(folder: Path, name: str) -> set[str]:
    """The Python files below `folder`, named as they are below `name` in the wheel."""
    return {f"{name}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}


@pytest.mark.slow
def test_wheel_contains_the_backend_adapters(wheel_members: set[str]) -> None:
    # They are behind a symbolic link, which maturin does not follow unless told to.
    adapters = importable_files(ROOT / "backends", "aevent/_backends")
    assert "aevent/_backends/trio_backend.py" in adapters
    assert adapters <= wheel_members


@pytest.mark.slow
def test_wheel_contains_every_python_file_of_the_package(wheel_members: set[str]) -> None:
    assert importable_files(ROOT / "aevent", "aevent") <= wheel_members


@pytest.mark.slow
def test_wheel_contains_the_extension_module_and_its_types(wheel_members: set[str]) -> None:
    assert {"aevent/py.typed", "aevent/_core.pyi"} <= wheel_members
    modules = [name for name in wheel_members if name.startswith("aevent/_core.")]
    assert any(name.endswith(".so") for name in modules), modules


@pytest.mark.slow
def test_wheel_contains_nothing_but_the_package(wheel_members: set[str]) -> None:
    tops = {name.split("/")[0].split("-")[0] for name in wheel_members}
    # The plugin's entry point is beside the package: pytest imports it for everybody.
    assert tops == {"aevent", "pytest_aevent.py"}
    assert not [name for name in wheel_members if "__pycache__" in name]
