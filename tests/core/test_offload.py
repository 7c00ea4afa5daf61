"""Real threads for calls that block in C."""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aevent
from aevent._imports import _waiting

Run = Callable[..., Any]
Fresh = Callable[..., str]


def here() -> int:
    return threading.get_native_id()


def test_the_call_is_made_in_a_real_thread_while_others_go_on(run: Run) -> None:
    async def main() -> None:
        entered, leave = threading.Event(), threading.Event()

        def block(value: int, *, key: str) -> tuple[int, str, int]:
            entered.set()
            assert leave.wait(30)
            return value, key, here()

        def release() -> None:
            while not entered.is_set():
                aevent._core.checkpoint()
            leave.set()

        async with aevent.TaskGroup() as group:
            group.spawn(release)
            group.spawn(check, block)

    def check(block: Callable[..., tuple[int, str, int]]) -> None:
        value, key, thread = aevent.offload(block, 1, key="a")
        assert (value, key) == (1, "a")
        assert thread != here()

    run(main)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_the_function_raises_is_raised(run: Run, kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("what")

    def main() -> None:
        with pytest.raises(kind, match="what"):
            aevent.offload(fail)

    run(main)


def test_the_function_sees_a_copy_of_the_context(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def change() -> int:
        seen = variable.get()
        variable.set(2)
        return seen

    def main() -> None:
        variable.set(1)
        assert aevent.offload(change) == 1
        assert variable.get() == 1

    run(main)


def test_elsewhere_than_in_a_task_it_is_an_ordinary_call(run: Run) -> None:
    assert aevent.offload(here) == here()

    def main() -> None:
        with aevent.native():
            assert aevent.offload(here) == here()
        # In a thread of its own it is not moved once more.
        threads = aevent.offload(lambda: (here(), aevent.offload(here)))
        assert threads[0] == threads[1] != here()

    run(main)


def test_async_code_may_call_it(run: Run) -> None:
    async def main() -> None:
        await aevent.per_task()
        assert aevent.offload(here) != here()

    run(main)


def test_cancellation_abandons_the_call(run: Run) -> None:
    entered, leave, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        leave.wait(30)
        ended.set()

    def main() -> None:
        with aevent.CancelScope() as scope:

            async def cancel() -> None:
                while not entered.is_set():
                    await aevent.checkpoint()
                scope.cancel()

            async def both() -> None:
                async with aevent.TaskGroup() as group:
                    group.spawn(cancel)
                    group.spawn(aevent.offload, block)

            aevent.await_(both())
        assert scope.cancelled_caught
        assert not ended.is_set()
        leave.set()
        # It runs to its end.
        assert aevent.offload(ended.wait, 30)

    run(main)


async def coroutine_function() -> None: ...


def generator_function() -> Iterator[int]:
    yield 1


def test_what_does_not_block_when_called_is_refused(run: Run) -> None:
    def main() -> None:
        for wrong in (coroutine_function, functools.partial(coroutine_function)):
            with pytest.raises(TypeError, match=r"a synchronous function.*is async\. Await"):
                aevent.offload(wrong)
        with pytest.raises(TypeError, match="is a generator"):
            aevent.offload(generator_function)
        with pytest.raises(TypeError, match="returned a coroutine"):
            aevent.offload(lambda: coroutine_function())
        with pytest.raises(TypeError, match="expects a function, not 5"):
            aevent.offload(5)  # type: ignore[arg-type]

    run(main)


# --- rules ---


MODULE = """
import threading
def function():
    "What it does."
    return threading.get_native_id()
class Base:
    def inherited(self):
        return threading.get_native_id()
class Class(Base):
    def method(self, value):
        return value, threading.get_native_id()
    @staticmethod
    def static():
        return threading.get_native_id()
    @classmethod
    def of_class(cls):
        return cls, threading.get_native_id()
async def coroutine(): pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that can be imported, with a module `inner` that has functions to offload."""
    name = f"offloaded_{time.monotonic_ns()}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
    for rule in list(aevent._offload.rules):
        rule.remove()


def import_(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def test_a_rule_applies_at_once_or_when_its_module_is_imported(run: Run, package: str) -> None:
    early = aevent.offloaded(f"{package}.inner.function")
    assert not early.is_applied and "not imported yet" in repr(early)
    inner = import_(f"{package}.inner")
    assert early.is_applied
    # The way in which it was imported leaves no trace.
    assert type(inner.__loader__).__name__ == "SourceFileLoader"
    assert inner.__spec__.loader is inner.__loader__
    assert not any("there_yet" in name or name.startswith("offloaded_") for name in _waiting)
    for method in ("method", "static", "of_class", "inherited"):
        assert aevent.offloaded(f"{package}.inner.Class.{method}").is_applied

    def main() -> None:
        assert inner.function() != here()
        instance = inner.Class()
        assert instance.method(1) != (1, here()) and instance.method(value=1)[0] == 1
        assert inner.Class.static() != here() and instance.static() != here()
        assert inner.Class.of_class()[0] is inner.Class and instance.of_class()[1] != here()
        assert instance.inherited() != here()
        assert inner.Base().inherited() == here()

    run(main)
    assert inner.function() == here()
    assert inner.function.__name__ == "function" and inner.function.__doc__ == "What it does."


def test_a_rule_ends_when_it_is_removed(run: Run, package: str) -> None:
    inner = import_(f"{package}.inner")
    before = dict(vars(inner)), dict(vars(inner.Class))

    def main() -> None:
        with aevent.offloaded(f"{package}.inner.function") as rule:
            assert inner.function() != here()
            assert rule.is_applied
        assert inner.function() == here()
        rule.remove()

    run(main)
    for method in ("method", "static", "of_class", "inherited"):
        with aevent.offloaded(f"{package}.inner.Class.{method}"):
            assert dict(vars(inner.Class)) != before[1]
    assert (dict(vars(inner)), dict(vars(inner.Class))) == before
    pending = aevent.offloaded("not_there_yet.function")
    pending.remove()
    assert not any("there_yet" in name or name.startswith("offloaded_") for name in _waiting)


def test_a_rule_for_what_is_not_there_is_an_error(package: str) -> None:
    inner = import_(f"{package}.inner")
    for name in (f"{package}.inner.nothing", f"{package}.nothing.function"):
        with pytest.raises(AttributeError, match="has nothing called"):
            aevent.offloaded(name)
    with pytest.raises(aevent.AeventError, match="names a class: name a function"):
        aevent.offloaded(f"{package}.inner.Class")
    with pytest.raises(TypeError, match="is async"):
        aevent.offloaded(f"{package}.inner.coroutine")
    for wrong in ("function", "a b.c", ""):
        with pytest.raises(ValueError, match="expects a dotted name"):
            aevent.offloaded(wrong)
    assert inner and not aevent._offload.rules


def test_a_rule_that_finds_nothing_when_it_is_imported_warns(package: str) -> None:
    aevent.offloaded(f"{package}.inner.nothing")
    with pytest.warns(aevent.AeventWarning, match="nothing called 'nothing'.*without effect"):
        import_(f"{package}.inner")


def test_a_method_of_a_type_in_c_says_what_to_do() -> None:
    import sqlite3

    assert sqlite3
    with pytest.raises(aevent.AeventError, match=r"type written in C.*factory=.*aevent\.offload"):
        aevent.offloaded("sqlite3.Connection.execute")
    assert not aevent._offload.rules


def test_a_decorated_function_is_offloaded(run: Run) -> None:
    @aevent.offloaded
    def function() -> int:
        return here()

    class Class:
        @aevent.offloaded
        def method(self) -> tuple[object, int]:
            return self, here()

    def main() -> None:
        assert function() != here()
        instance = Class()
        assert instance.method()[0] is instance and instance.method()[1] != here()

    run(main)
    assert function() == here()
    assert function.__name__ == "function"
    with pytest.raises(TypeError, match="is async"):
        aevent.offloaded(coroutine_function)


def test_a_forked_child_offloads_too(fresh_ok: Fresh) -> None:
    source = """
import os, sys, threading
import aevent
from aevent._imports import _waiting
def main():
    assert aevent.offload(threading.get_native_id) != threading.get_native_id()
    child = os.fork()
    if not child:
        assert aevent.offload(threading.get_native_id) != threading.get_native_id()
        os._exit(7)
    assert os.waitstatus_to_exitcode(aevent.offload(os.waitpid, child, 0)[1]) == 7
aevent.run(main)
"""
    fresh_ok(source)


def test_a_program_ends_while_an_abandoned_call_runs(fresh_ok: Fresh) -> None:
    source = """
import time
import aevent
from aevent._imports import _waiting
def main():
    with aevent.move_on_after(0.01):
        aevent.offload(time.sleep, 1000)
    print("ended")
aevent.run(main)
"""
    assert fresh_ok(source) == "ended\n"


def test_a_call_that_returns_while_the_interpreter_ends_does_no_harm(fresh_ok: Fresh) -> None:
    source = """
import ctypes, os, threading
import aevent
aevent.setup()

class AtTheEnd:
    "The interpreter drops it when it has begun to end; the call's thread then asks for its lock."
    def __init__(self):
        self.write, self.join = os.write, __import__("time").sleep
        self.answer, self.end = os.pipe()
    def __del__(self):
        self.write(self.end, b"x")
        self.join(0.05)

at_the_end = AtTheEnd()
read = ctypes.CDLL(None).read

def main():
    with aevent.move_on_after(0.01):
        aevent.offload(read, at_the_end.answer, ctypes.create_string_buffer(1), 1)

aevent.run(main)
print("ended")
"""
    assert fresh_ok(source) == "ended\n"


@pytest.mark.parametrize("host", ["asyncio", "trio"])
def test_an_os_thread_that_uses_a_scope_while_the_interpreter_ends_does_no_harm(
    fresh_ok: Fresh, host: str
) -> None:
    """Before 3.14 the interpreter ends a thread that wants it then, by unwinding its stack."""
    source = f"""
import aevent
aevent.setup({host!r})
import threading, time

ended = threading.Event()

def use(scope):
    ended.wait()
    while True:
        scope.shield = not scope.shield

async def main():
    with aevent.CancelScope() as scope, aevent.native():
        threading.Thread(target=use, args=(scope,), daemon=True).start()

aevent.run(main)
ended.set()
time.sleep(0.02)
"""
    fresh_ok(source)
