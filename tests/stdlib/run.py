"""CPython's own tests, patched and in a task, compared with plain Python: see README.md.

python tests/stdlib/run.py                                   everything, on each backend
python tests/stdlib/run.py --module test_queue --backend native
python tests/stdlib/run.py --module test_socket --test '*Recv*' --verbose
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import compare
import driver
import known
from driver import Results, Run
from modules import MODULES, Module, find

BACKENDS = ("native", "asyncio", "trio")
CACHE = Path(__file__).parents[2] / "build" / "conformance"
#: Seconds in which nothing happens, beyond five times what the test takes plainly.
TIMEOUT = 30.0
#: They take a minute and more: begun first, even if nothing is known yet of how long modules take.
LONG = ("test_multiprocessing_spawn", "test_socket", "test_concurrent_futures", "test_imaplib")
#: In the name of what is kept of plain runs: to be raised when they would come out differently.
FORMAT = 2


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The exit status is 1 if a test that passes plainly fails patched and is not "
        "listed in known_failures.toml, or passes although it is listed there.",
    )
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="test_queue, test_asyncio.test_tasks, …"
    )
    parser.add_argument("--module", action="append", default=[], help="the same, as an option")
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="may be repeated; default: all"
    )
    parser.add_argument("--test", metavar="PATTERN", help="only tests whose id matches")
    parser.add_argument(
        "--jobs",
        type=int,
        # Most of the time is spent in waiting.
        default=2 * (os.cpu_count() or 1),
        help="modules at a time (twice as many as there are cores)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        help="seconds for a test, besides five times what it takes plainly (30; plainly 90)",
    )
    parser.add_argument("--refresh-plain", action="store_true", help="run plain Python again")
    parser.add_argument("--no-rerun", action="store_true", help="do not run failed tests alone")
    parser.add_argument(
        "--testsuite",
        metavar="FOLDER",
        default=os.environ.get("AEVENT_TESTSUITE"),
        help="a folder `test` that has what this Python's lacks (AEVENT_TESTSUITE)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("AEVENT_CONFORMANCE_CACHE") or CACHE),
        help="where results are kept (build/conformance; AEVENT_CONFORMANCE_CACHE)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of failures")
    options = parser.parse_args(arguments)
    options.modules = [each.removeprefix("test.") for each in options.modules + options.module]
    options.modules = options.modules or list(MODULES)
    options.backend = options.backend or list(BACKENDS)
    return options


class Conformance:
    """All that was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.known = known.load()
        name = f"{platform.python_implementation().lower()}-{platform.python_version()}"
        self.cache: Path = options.cache.absolute() / name
        self._plain_locks: dict[str, threading.Lock] = {}

    def plain(self, module: Module) -> Results:
        """What plain Python makes of a module: measured once for each Python."""
        lock = self._plain_locks.setdefault(module.name, threading.Lock())
        with lock:
            folder = self.cache / "plain"
            kept = folder / f"{module.name}.{FORMAT}.json"
            if kept.exists() and not self.options.refresh_plain:
                return Results.load(json.loads(kept.read_text()))
            results = self._run(module, "plain", None)
            _write(kept, results)
            return results

    def patched(self, module: Module, backend: str, plain: Results) -> Results:
        only = None
        if self.options.test is not None:
            only = [each for each in plain.tests if _matches(each, self.options.test)]
        results = self._run(module, backend, only, plain)
        if only is None:
            _write(self.cache / backend / f"{module.name}.json", results)
        return results

    def _run(
        self,
        module: Module,
        backend: str,
        only: list[str] | None,
        plain: Results | None = None,
    ) -> Results:
        folder = self.cache / backend
        if plain is None:
            # A test may take long plainly, and that is not known before.
            run = Run(module, backend, timeout=3 * self.options.timeout, folder=folder)
        else:
            run = Run(
                module,
                backend,
                timeout=self.options.timeout,
                folder=folder,
                usual={name: outcome.seconds for name, outcome in plain.tests.items()},
                # Judged are those that pass plainly. The others would be run alone, too, or hang.
                without=[name for name, each in plain.tests.items() if each.what != "passed"],
            )
        return run(only, rerun=not self.options.no_rerun)

    def compare(self, module: Module, backend: str) -> compare.Comparison:
        plain = self.plain(module)
        pattern = self.options.test
        if plain.skipped is not None:
            return compare.compare(module.name, plain, plain, {}, backend)
        patched = self.patched(module, backend, plain)
        if pattern is not None:
            tests = {name: each for name, each in plain.tests.items() if _matches(name, pattern)}
            plain = plain._replace(tests=tests)
        compared = compare.compare(module.name, plain, patched, self.known, backend)
        # The table has its own order; on a slow machine one wants to see that something happens.
        print(f"{backend:8} {compare.line(compared)}", file=sys.stderr, flush=True)
        return compared

    def length(self, module: Module) -> float:
        """How long it takes, as far as is known: the longest are begun first."""
        # Another Python's will do.
        name = f"plain/{module.name}.{FORMAT}.json"
        for kept in (self.cache / name, *sorted(self.cache.parent.glob(f"*/{name}"))):
            try:
                return float(json.loads(kept.read_text())["seconds"])
            except (OSError, ValueError):
                pass
        return 1000.0 if module.table in LONG else 10.0


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or any(
        fnmatch.fnmatchcase(part, pattern) for part in name.split(".")
    )


def _write(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed: others may read it at the same time.
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(results.dump(), indent=1))
    part.rename(path)


def _end(number: int, frame: object) -> None:
    driver.kill_all()
    os._exit(128 + number)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    conformance = Conformance(options)
    modules, absent = find(options.modules, conformance.cache, options.testsuite)
    if options.refresh_plain:
        # Once each, not once for each backend.
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(conformance.plain, modules))
        options.refresh_plain = False
    # Parts of a package stay together in the table; side by side, they are run as they come.
    jobs = sorted(
        ((module, backend) for backend in options.backend for module in modules),
        key=lambda job: -conformance.length(job[0]),
    )
    with ThreadPoolExecutor(options.jobs) as pool:
        started = {job: pool.submit(conformance.compare, *job) for job in jobs}
        good = True
        for backend in options.backend:
            parts: dict[str, list[compare.Comparison]] = {}
            print(f"\nCPython {platform.python_version()}, {backend}\n{compare.HEADER}")
            for module in modules:
                each = parts.setdefault(module.table, [])
                each.append(started[module, backend].result())
                if (
                    module is modules[-1]
                    or modules[modules.index(module) + 1].table != module.table
                ):
                    print(compare.line(compare.total(module.table, each)), flush=True)
            for name, reason in absent.items():
                print(f"{name:36} skipped: {reason}")
            whole = compare.total("total", [one for each in parts.values() for one in each])
            print(compare.line(whole))
            good &= whole.good
            tell(whole, options.verbose)
    return 0 if good else 1


def tell(whole: compare.Comparison, verbose: bool) -> None:
    """Names what was not as it should be."""
    for test in whole.unexpected:
        print(f"LISTED BUT PASSED  {test}")
    for test, outcome in whole.failures.items():
        last = (outcome.detail.strip().splitlines() or [""])[-1]
        print(f"{outcome.what.upper():9} {test}\n          {last[:160]}")
        if verbose:
            print("    " + outcome.detail.strip().replace("\n", "\n    ") + "\n")
    for test in whole.only_alone:
        print(f"passed only when run again alone: {test}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
