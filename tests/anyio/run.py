"""Runs anyio's own tests, unchanged, on the backend `aevent`, and compares with its trio backend.

`make anyio-suite` runs them all. They come from the source archive of the anyio that is installed,
which is fetched into `build/host-suites`, with what the suite needs. What passes on trio and not on
aevent must be in `expected_failures.toml`, with a reason; what is listed there and passes is an
error, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent

#: Run by `make test`: they need nothing that is not installed for development.
FAST = ("test_taskgroups.py", "test_lowlevel.py", "test_eventloop.py", "test_signals.py")

#: For those, in place of the suite's own settings, which name plugins that are fetched.
FAST_SETTINGS = """
[pytest]
anyio_mode = auto
xfail_strict = true
markers =
    network: needs the Internet
faulthandler_timeout = 60
"""


def host_suites() -> ModuleType:
    """What fetches suites and what they need."""
    spec = importlib.util.spec_from_file_location("host_suites", HERE.parent / "hosts" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(fast: bool, selection: str | None, timeout: float) -> dict[str, str]:
    """Test to "passed", "failed" or "skipped"; of all that were reached."""
    suites = host_suites()
    build: Path = suites.BUILD
    build.mkdir(parents=True, exist_ok=True)
    folder: Path = suites.anyio_tests()
    report, log = build / "anyio-on-aevent.xml", build / "anyio-on-aevent.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "aevent_params", f"--junitxml={report}", "-m", "not network"]
    if fast:
        settings = build / "anyio-fast.ini"
        settings.write_text(FAST_SETTINGS)
        command += ["-c", str(settings), "--rootdir", str(folder)]
        command += ["-p", "no:asyncio", "-p", "no:trio", *(f"tests/{name}" for name in FAST)]
    else:
        suites.fetch()
        # A test that hangs must not cost the others.
        command += ["--timeout=60", "tests"]
    if selection is not None:
        command += ["-k", selection]
    path = os.pathsep.join([str(HERE), str(suites.ROOT), *([] if fast else [str(build / "site")])])
    with log.open("w") as output:
        try:
            subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"not done after {timeout:.0f} s, see {log}") from None
    if not report.exists():
        raise SystemExit(f"no report, see {log}")
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome = "failed"
        else:
            outcome = "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return found


def on_aevent(name: str) -> str:
    """What a test with trio's parameter is called with ours. Another one may stay trio's."""
    return re.sub(r"(?<=[\[-])trio(?=[\]-])", "aevent", name, count=1)


def expected() -> list[str]:
    """Patterns of the names of the tests that fail; the file gives each a reason."""
    with (HERE / "expected_failures.toml").open("rb") as file:
        table: dict[str, str] = tomllib.load(file)
    return list(table)


def check(found: dict[str, str]) -> bool:
    """Prints how the backends compare. Whether all is as it should be."""
    ours = {
        name: outcome for name, outcome in found.items() if re.search(r"[\[-]aevent[\]-]", name)
    }
    trios = {
        name: outcome
        for name, outcome in found.items()
        if name not in ours and on_aevent(name) in ours
    }
    passed = {on_aevent(name) for name, outcome in trios.items() if outcome == "passed"}
    patterns = expected()
    listed = {name for name in ours if any(re.fullmatch(pattern, name) for pattern in patterns)}
    lost = {name for name in passed if ours[name] != "passed"}
    gained = {name for name in listed if ours[name] == "passed"}
    for backend, results in (("trio", trios), ("aevent", ours)):
        counts = list(results.values())
        print(
            f"{backend}: {counts.count('passed')} pass, {counts.count('failed')} fail, "
            f"{counts.count('skipped')} are skipped"
        )
    print(f"{len(lost)} that pass on trio do not on aevent, {len(lost & listed)} of them listed")
    for name in sorted(lost - listed):
        print(f"  {ours[name]}: {name}")
    for name in sorted(gained):
        print(f"  passes, though it is in expected_failures.toml: {name}")
    return bool(passed) and lost <= listed and not gained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="the part that `make test` runs")
    parser.add_argument("-k", dest="selection", help="as pytest's: only these tests")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for all of them")
    options = parser.parse_args()
    return 0 if check(outcomes(options.fast, options.selection, options.timeout)) else 1


if __name__ == "__main__":
    sys.exit(main())
