"""Runs the hosts' own test suites in a patched process, and compares with plain Python.

`make host-suites` runs all; `ARGS="trio --backend asyncio"` one, set up for that backend. They
start loops of their own, outside tasks of ours, where everything must be as it was. asyncio's comes
with the interpreter and trio's with its package; anyio's, and what the suites need, is fetched into
`build/host-suites`. What passes plainly and fails patched must be in `expected_failures.toml`, with
a reason; what is listed there and passes is an error, too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "host-suites"
NEEDED = ("blockbuster", "psutil", "pytest-mock", "pytest-timeout", "trustme", "truststore")

ASYNCIO = (
    *("base_events", "buffered_proto", "context", "events", "futures", "futures2", "locks"),
    *("pep492", "protocols", "queues", "runners", "selector_events", "sendfile", "server"),
    *("sock_lowlevel", "sslproto", "streams", "subprocess", "taskgroups", "tasks", "threads"),
    *("timeouts", "transports", "unix_events", "waitfor"),
)
TRIO = (
    *("asyncgen", "guest_mode", "instrumentation", "io", "ki", "local", "mock_clock"),
    *("parking_lot", "run", "thread_cache", "unbounded_queue"),
)
TRIO_OUTER = (
    *("channel", "file_io", "highlevel_open_tcp_listeners", "highlevel_open_tcp_stream"),
    *("highlevel_serve_listeners", "highlevel_socket", "path", "signals", "socket", "subprocess"),
    *("sync", "testing", "threads", "timeouts", "unix_pipes", "util", "wait_for_object"),
)
#: Run by `make test`: seconds, and what the exchange of names touches most.
FAST = {
    "asyncio": ("runners", "threads", "unix_events"),
    "trio": ("thread_cache", "signals", "threads"),
    "anyio": ("test_from_thread.py", "test_to_thread.py", "test_pytest_plugin.py"),
}


#: Of a test that is as it should be.
WELL = {"passed", "skipped"}


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        check=True,
    )


def fetch() -> None:
    """What the suites need beyond what development does."""
    stamp = BUILD / "site" / ".complete"
    if not stamp.exists():
        pip(
            "install",
            "--target",
            str(BUILD / "site"),
            "--no-deps",
            *NEEDED,
            "forbiddenfruit",
            "cryptography",
            "cffi",
            "pycparser",
        )
        stamp.touch()


def anyio_tests() -> Path:
    """anyio's tests, from the archive of the version that is installed."""
    version = importlib.metadata.version("anyio")
    folder = BUILD / f"anyio-{version}"
    if not folder.exists():
        pip(
            "download",
            "--no-binary",
            "anyio",
            "--no-deps",
            "--dest",
            str(BUILD),
            f"anyio=={version}",
        )
        with tarfile.open(BUILD / f"anyio-{version}.tar.gz") as archive:
            archive.extractall(BUILD)
    return folder


def parts(suite: str, fast: bool) -> tuple[dict[str, list[str]], Path]:
    """What pytest is to run, a process each, and the folder that the tests' names are relative to.

    What hangs costs the part that it is in. And asyncio's tests have all garbage collected again
    and again, which costs the more the more there is.
    """
    if suite == "asyncio":
        names = [name for name in ASYNCIO if not fast or name in FAST[suite]]
        modules, folder = existing("test.test_asyncio.test_", names)
        if fast:
            return {"all": ["--pyargs", *modules]}, folder
        return {module.rpartition("test_")[2]: ["--pyargs", module] for module in modules}, folder
    if suite == "trio":
        inner = [name for name in TRIO if not fast or name in FAST[suite]]
        outer = [name for name in TRIO_OUTER if not fast or name in FAST[suite]]
        core, _ = existing("trio._core._tests.test_", inner)
        modules, folder = existing("trio._tests.test_", outer)
        plugin = ["-p", "trio._tests.pytest_plugin", "--pyargs"]
        found = {"core": [*plugin, *core], "rest": [*plugin, *modules]}
        return {name: each for name, each in found.items() if each != plugin}, folder.parent
    folder = anyio_tests()
    if fast:
        return {"all": [f"tests/{name}" for name in FAST[suite]]}, folder
    files = [path.relative_to(folder) for path in sorted(folder.glob("tests/**/test_*.py"))]
    return {"-".join(path.with_suffix("").parts[1:]): [str(path)] for path in files}, folder


def existing(prefix: str, names: list[str]) -> tuple[list[str], Path]:
    """The modules that this Python, or this version of the package, has, and their folder."""
    package = prefix.rpartition(".")[0]
    probe = f"import {package} as package; print(package.__path__[0])"
    folder = Path(
        subprocess.run(
            [sys.executable, "-c", probe], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    found = [f"{prefix}{name}" for name in names if (folder / f"test_{name}.py").exists()]
    return found, folder


class Suite:
    """One suite on one backend, or plainly."""

    def __init__(self, suite: str, backend: str | None, options: argparse.Namespace) -> None:
        self.suite = suite
        self.backend = backend
        self.options = options
        self.parts, self.folder = parts(suite, options.fast)
        BUILD.mkdir(parents=True, exist_ok=True)
        if not options.fast:
            # A test that hangs must not cost the others. Those of `make test` do without.
            fetch()

    def outcomes(self) -> dict[str, str]:
        """Test to "passed", "failed" or "skipped"; of all that were reached."""
        found: dict[str, str] = {}
        with ThreadPoolExecutor(self.options.jobs) as pool:
            for part in pool.map(self._run, self.parts):
                found.update(part)
        return found

    def _run(self, part: str) -> dict[str, str]:
        label = f"{self.suite}-{self.backend or 'plain'}-{part}"
        report = BUILD / f"{label}.xml"
        report.unlink(missing_ok=True)
        command, environment = self._command(report)
        with (BUILD / f"{label}.log").open("w") as log:
            try:
                subprocess.run(
                    [*command, *self.parts[part]],
                    cwd=self.folder if self.suite == "anyio" else BUILD,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    timeout=self.options.timeout,
                )
            except subprocess.TimeoutExpired:
                print(f"{label}: not done after {self.options.timeout:.0f} s, see {log.name}")
        if not report.exists():
            # Its tests are missing then.
            print(f"{label}: no report, see {log.name}")
            return {}
        return read(report)

    def _command(self, report: Path) -> tuple[list[str], dict[str, str]]:
        path = os.pathsep.join([str(HERE), str(ROOT), str(BUILD / "site")])
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop("AEVENT_BACKEND", None)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}"]
        if not self.options.fast:
            command += [f"--timeout={self.options.test_timeout:g}"]
        if self.suite == "anyio":
            command += ["-m", "not network"]
        else:
            # Warnings are the suites' own business.
            ini = BUILD / f"{report.stem}.ini"
            ini.write_text("[pytest]\nfaulthandler_timeout = 60\n")
            command += ["-c", str(ini), "--rootdir", str(self.folder)]
        if self.backend is not None:
            environment["AEVENT_SUITE_BACKEND"] = self.backend
            command += ["-p", "patched"]
        return command, environment


def read(report: Path) -> dict[str, str]:
    """What became of each test."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome = "failed"
        else:
            outcome = "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return found


def expected(suite: str, backend: str) -> list[str]:
    """Patterns of the names of the tests that fail, with a reason in the file, on that backend."""
    with (HERE / "expected_failures.toml").open("rb") as file:
        table: dict[str, dict[str, Any]] = tomllib.load(file)
    entries = table.get(suite, {})
    shared = [pattern for pattern, reason in entries.items() if isinstance(reason, str)]
    return shared + list(entries.get(f"only-{backend}", {}))


def check(suite: str, options: argparse.Namespace) -> bool:
    backends = options.backend or ["native"]
    results = {backend: Suite(suite, backend, options).outcomes() for backend in backends}
    plain: dict[str, str] = {}
    # Plain Python need not be asked about the few of `make test` as long as all is well.
    if not options.fast or any(set(each.values()) - WELL or not each for each in results.values()):
        plain = Suite(suite, None, options).outcomes()
    passed = {name for name, outcome in plain.items() if outcome == "passed"}
    good = True
    for backend, patched in results.items():
        known = expected(suite, backend)
        listed = {
            name
            for name in passed.union(patched)
            if any(re.fullmatch(pattern, name) for pattern in known)
        }
        lost = {name for name in passed if patched.get(name, "missing") != "passed"}
        gained = {name for name in listed if patched.get(name) == "passed"}
        print(
            f"{suite}, set up for {backend}: {list(patched.values()).count('passed')} pass, "
            f"{len(lost)} that pass plainly do not, {len(lost & listed)} of them listed",
            flush=True,
        )
        for name in sorted(lost - listed):
            print(f"  {patched.get(name, 'missing')}: {name}")
        for name in sorted(gained):
            print(f"  passes, though it is in expected_failures.toml: {name}")
        good = good and not gained and lost <= listed
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", default=["asyncio", "trio", "anyio"])
    parser.add_argument("--backend", action="append", choices=["native", "asyncio", "trio"])
    parser.add_argument("--fast", action="store_true", help="the part that `make test` runs")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="parts at a time (cores)"
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for a part of a suite")
    parser.add_argument("--test-timeout", type=float, default=60, help="seconds for a test")
    options = parser.parse_args()
    # Ignored, as a shell has it for what it starts in the background, it would be for the suites.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    results = [check(suite, options) for suite in options.suites]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
