"""Runs CPython's own tests of one module in this fresh process: plainly, or patched in a task.

`driver` starts it and tells it by environment variables what to do. It appends a line of JSON to a
file for each thing that happens, so that whatever becomes of this process, what was done is known:

    {"plan": [id, …]}                 what will be run
    {"start": id}                     a test begins
    {"end": id, "outcome": …, "seconds": …, "detail": …}
    {"skipped": reason}               the module says that it cannot run here
    {"trouble": text}                 the module, or the fixtures of a class, failed
    {"over": true}                    that was all; only the interpreter's exit is left

It is imported again by children that `multiprocessing` spawns; then it only patches, as a program
that begins with `aevent.setup()` would.
"""

from __future__ import annotations

import os
import sys

# Taken before anything is patched: writing the results must not depend on what is being tested.
_open, _write, _close, _getpid = os.open, os.write, os.close, os.getpid

BACKEND = os.environ["AEVENT_CONFORMANCE_BACKEND"]
# This folder is no place to import from. (In children of multiprocessing it is not there.)
if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]

if BACKEND != "plain":
    import aevent

    aevent.setup(BACKEND)

import collections
import faulthandler
import importlib
import json
import time
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

_clock = time.perf_counter


class Report:
    """The file of results. It is opened for each line: a test may close any descriptor."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.process = _getpid()

    def __call__(self, **line: Any) -> None:
        if _getpid() != self.process:
            # A fork whose child was meant to exit, and came back here to run the other tests.
            os._exit(70)
        fd = _open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            _write(fd, json.dumps(line).encode() + b"\n")
        finally:
            _close(fd)


class Selection:
    """Which tests are to be run, and the name of each; some modules have two of one name."""

    def __init__(self, only: set[str] | None, without: set[str]) -> None:
        self.only = only
        self.without = without
        self.planned: list[str] = []
        self._seen: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, collections.deque[str]] = {}

    def name(self, test: unittest.TestCase) -> str:
        """The name of the test that begins now."""
        waiting = self._waiting.get(test.id())
        return waiting.popleft() if waiting else test.id()

    def filter(self, suite: Any) -> None:
        """Takes out of the suite what is not wanted, and plans the rest."""
        kept = []
        for test in suite._tests:
            if isinstance(test, unittest.TestSuite):
                self.filter(test)
                kept.append(test)
            elif self._wants(test):
                kept.append(test)
        suite._tests = kept

    def _wants(self, test: unittest.TestCase) -> bool:
        base = test.id()
        self._seen[base] += 1
        name = base if self._seen[base] == 1 else f"{base}#{self._seen[base]}"
        if name in self.without or (self.only is not None and name not in self.only):
            return False
        self._waiting.setdefault(base, collections.deque()).append(name)
        self.planned.append(name)
        return True


class Result(unittest.TestResult):
    """Reports each test when it is over."""

    #: From the best to the worst: a test with subtests has the worst outcome of all.
    ORDER = ("passed", "skipped", "failed")

    def __init__(
        self, report: Report, selection: Selection, limit: Callable[[str], float], dump: Any
    ) -> None:
        super().__init__()
        self._report = report
        self._selection = selection
        self._limit = limit
        self._dump = dump
        self._name = ""
        self._outcome = ""
        self._detail = ""
        self._began = 0.0

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._name = self._selection.name(test)
        self._outcome = self._detail = ""
        # With a time slice of its own: one that replaces a builtin for a moment must not be judged
        # by whether the loop's turn comes just then.
        time.sleep(0)
        self._began = _clock()
        self._report(start=self._name)
        faulthandler.dump_traceback_later(self._limit(self._name), file=self._dump)

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        if not self._name:
            return
        faulthandler.cancel_dump_traceback_later()
        self._report(
            end=self._name,
            # One whose failures were all in subtests that passed has no outcome of its own.
            outcome=self._outcome or "passed",
            seconds=round(_clock() - self._began, 3),
            detail=self._detail,
        )
        self._name = ""
        # What unittest keeps for its summary is not needed, and would keep objects alive.
        del self.failures[:], self.errors[:], self.skipped[:], self.expectedFailures[:]

    def _set(self, test: Any, outcome: str, detail: str) -> None:
        if not self._name:
            # Not a test but the fixture of a class or a module.
            if outcome == "failed":
                self._report(trouble=f"{test}\n{detail}")
            elif outcome == "skipped":
                self._report(trouble=f"{test}: {detail}", skipped_class=str(test))
            return
        if not self._outcome or self.ORDER.index(outcome) > self.ORDER.index(self._outcome):
            self._outcome = outcome
        if detail:
            self._detail += detail + "\n"

    def addSuccess(self, test: Any) -> None:
        self._set(test, "passed", "")

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._set(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._set(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            detail = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
            self._set(test, "failed", f"{subtest}\n{detail}")

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        if not self._name and isinstance(test, unittest.TestCase):
            # CPython 3.12.1 does not start one that a decorator skips.
            name = self._selection.name(test)
            self._report(start=name)
            self._report(end=name, outcome="skipped", seconds=0.0, detail=reason)
            return
        self._set(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._set(test, "passed", "")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._set(test, "failed", "unexpected success")


def prepare(resources: list[str]) -> None:
    """What `python -m test` does in a process before it runs a module."""
    from test import support

    try:
        from test.libregrtest.setup import setup_process
    except ImportError:
        _prepare_as_before_3_12(resources)
    else:
        setup_process()
    support.use_resources = resources
    support.verbose = 0


def _prepare_as_before_3_12(resources: list[str]) -> None:
    from types import SimpleNamespace

    from test.libregrtest import setup

    options = SimpleNamespace(
        testdir=None,
        huntrleaks=False,
        memlimit=None,
        threshold=None,
        verbose=0,
        use_resources=resources,
        timeout=None,
        xmlpath=None,
        pgo=False,
        pgo_extended=False,
        failfast=False,
        match_tests=None,
        ignore_tests=None,
        randomize=False,
        random_seed=None,
    )
    setup.setup_tests(options)


def run_module(module: ModuleType, report: Report, selection: Selection, result: Result) -> None:
    from test import support

    def run(suite: unittest.TestSuite) -> None:
        first = len(selection.planned)
        selection.filter(suite)
        report(plan=selection.planned[first:])
        suite(result)

    main = getattr(module, "test_main", None)
    if main is not None and hasattr(support, "_run_suite"):
        # Before 3.11 a module could have a function that says what is to be run.
        support._run_suite = run
        main()
    else:
        run(unittest.TestLoader().loadTestsFromModule(module))


def main() -> None:
    job = json.loads(os.environ.pop("AEVENT_CONFORMANCE_JOB"))
    report = Report(job["results"])
    only = None if job["only"] is None else set(job["only"])
    selection = Selection(only, set(job["without"]))
    # A descriptor of its own for the stacks: tests replace and close sys.stderr.
    dump = os.fdopen(os.dup(2), "w")
    os.set_inheritable(dump.fileno(), False)
    result = Result(report, selection, lambda test: job["limits"].get(test, job["limit"]), dump)
    try:
        prepare(job["resources"])
        faulthandler.dump_traceback_later(job["limit"], file=dump)
        try:
            module = importlib.import_module("test." + job["module"])
        except unittest.SkipTest as skip:
            report(skipped=str(skip))
        else:
            run_module(module, report, selection, result)
            from test import support

            support.gc_collect()
            support.reap_children()
    except unittest.SkipTest as skip:
        report(skipped=str(skip))
    except Exception:
        import traceback

        report(trouble=traceback.format_exc())
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
    report(over=True)


if __name__ == "__main__":
    if BACKEND == "plain":
        main()
    else:
        aevent.run(main)
