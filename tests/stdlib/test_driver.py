"""The driver itself: a test that hangs, crashes or leaves something behind costs only itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

MODULE = """
import os, signal, subprocess, sys, threading, time, unittest

class Tests(unittest.TestCase):
    def test_1_passes(self):
        pass

    def test_2_fails(self):
        self.fail("on purpose")

    def test_3_hangs(self):
        child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        with open(os.environ["AEVENT_TEST_FILE"], "w") as file:
            file.write(str(child.pid))
        threading.Event().wait()

    def test_4_ends_the_process(self):
        os._exit(0)

    def test_5_is_skipped(self):
        self.skipTest("on purpose")

    def test_6_has_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)

    def test_0_fails_unless_alone(self):
        self.assertEqual(state, [])

    def test_8_passes(self):
        pass

    @unittest.expectedFailure
    def test_9_fails_as_expected(self):
        self.fail("on purpose")

class Unstarted(unittest.TestCase):
    def run(self, result):
        # As CPython 3.12.1 runs a test that a decorator skips.
        result.addSkip(self, "on purpose")
        result.stopTest(self)

    def test_7_is_not_started(self):
        pass

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise OSError("on purpose")

    def test_never_run(self):
        pass

state = []

class Spoils(unittest.TestCase):
    def test_spoils(self):
        state.append(1)
"""


LEAVES_A_THREAD = """
import threading, unittest

class Tests(unittest.TestCase):
    def test_fails(self):
        threading.Thread(target=threading.Event().wait).start()
        self.fail("on purpose")
"""


def _import(name: str) -> Any:
    """A file beside this one: they are scripts, found by each other in `sys.path`."""
    sys.path.insert(0, str(HERE))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(HERE))


@pytest.mark.parametrize("backend", ["plain", "native"])
def test_each_test_has_its_outcome(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, modules = _import("driver"), _import("modules")
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "test_of_the_driver.py").write_text(MODULE)
    found, absent = modules.find(
        ["test_of_the_driver", "test_nothing"], tmp_path / "cache", str(extra)
    )
    assert [module.name for module in found] == ["test_of_the_driver"]
    assert list(absent) == ["test_nothing"]
    pid_file = tmp_path / "pid"
    monkeypatch.setattr(driver, "INHERITED", ("AEVENT_TEST_FILE",))
    monkeypatch.setenv("AEVENT_TEST_FILE", str(pid_file))
    run = driver.Run(found[0], backend, timeout=4, folder=tmp_path / "logs")
    results = run()
    outcomes = {
        name.rpartition(".")[2]: (outcome.what, outcome.alone)
        for name, outcome in results.tests.items()
        if name != driver.EXIT
    }
    assert outcomes == {
        "test_spoils": ("passed", False),
        "test_1_passes": ("passed", False),
        "test_2_fails": ("failed", True),
        "test_3_hangs": ("hung", True),
        "test_4_ends_the_process": ("crashed", True),
        "test_5_is_skipped": ("skipped", False),
        "test_6_has_subtests": ("failed", True),
        "test_0_fails_unless_alone": ("passed", True),
        "test_7_is_not_started": ("skipped", False),
        "test_8_passes": ("passed", False),
        "test_9_fails_as_expected": ("passed", False),
        "test_never_run": ("not run", False),
    }
    by_name = {name.rpartition(".")[2]: outcome for name, outcome in results.tests.items()}
    assert "on purpose" in by_name["test_2_fails"].detail
    assert "in test_3_hangs" in by_name["test_3_hangs"].detail
    assert "OSError: on purpose" in by_name["test_never_run"].detail
    # What the hanging test has started is gone, though it was in a session of its own.
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("a child is left")


@pytest.mark.parametrize("backend", ["plain", "native"])
def test_the_end_is_not_waited_for_if_a_test_has_failed(tmp_path: Path, backend: str) -> None:
    # It has left a thread that never ends, and the interpreter waits for that.
    driver, modules = _import("driver"), _import("modules")
    (tmp_path / "test_of_the_driver.py").write_text(LEAVES_A_THREAD)
    found, _ = modules.find(["test_of_the_driver"], tmp_path / "cache", str(tmp_path))
    results = driver.Run(found[0], backend, timeout=300, folder=tmp_path / "logs")()
    assert [outcome.what for outcome in results.tests.values()] == ["failed", "passed"]
    assert results.seconds < 100


def test_a_module_that_fails_in_plain_python_is_named(tmp_path: Path) -> None:
    driver, modules = _import("driver"), _import("modules")
    (tmp_path / "test_of_the_driver.py").write_text("import no_such_module")
    found, _ = modules.find(["test_of_the_driver"], tmp_path / "cache", str(tmp_path))
    results = driver.Run(found[0], "plain", timeout=300, folder=tmp_path / "logs")()
    assert results.skipped is not None
    assert results.skipped.startswith("fails in plain Python: ")
    assert "no_such_module" in results.skipped


def test_what_is_listed_must_fail() -> None:
    compare, driver, known = _import("compare"), _import("driver"), _import("known")
    outcome = driver.Outcome
    plain = driver.Results(
        {f"test.test_x.{name}": outcome("passed") for name in ("a", "b", "c", "d")}
        | {"test.test_x.e": outcome("failed")},
        None,
        1.0,
    )
    patched = driver.Results(
        {
            "test.test_x.a": outcome("passed"),
            "test.test_x.b": outcome("failed"),
            "test.test_x.c": outcome("hung"),
            "test.test_x.e": outcome("failed"),
        },
        None,
        1.0,
    )
    entries = {
        f"test.test_x.{name}": known.Known(f"test.test_x.{name}", "a reason", backends, ())
        for name, backends in (("a", ()), ("b", ()), ("c", ("trio",)))
    }
    result = compare.compare("test_x", plain, patched, entries, "native")
    assert result.unexpected == ["test.test_x.a"]
    assert list(result.listed) == ["test.test_x.b"]
    assert {name: each.what for name, each in result.failures.items()} == {
        "test.test_x.c": "hung",
        "test.test_x.d": "not run",
    }
    assert not result.good


def test_the_list_is_in_order() -> None:
    known = _import("known")
    entries = known.load()
    for entry in entries.values():
        assert entry.test.startswith("test.test_"), entry
        assert set(entry.backends) <= {"native", "asyncio", "trio"}, entry
        assert set(entry.pythons) <= {"3.10", "3.11", "3.12", "3.13"}, entry


def test_help_says_how_to_run_one_module() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--module test_queue" in done.stdout
