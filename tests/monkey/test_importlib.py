"""`importlib`'s locks: modules that wait while they are imported."""

from __future__ import annotations

import _imp
import functools
import importlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat


@contextmanager
def modules(**sources: str) -> Iterator[None]:
    """Puts modules where they can be imported."""
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            Path(folder, f"{name}.py").write_text(source)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in sources:
                sys.modules.pop(name, None)


def _together(*functions: Any) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_who_imports_a_module_that_is_being_imported_waits() -> None:
    done: list[Any] = []

    def work() -> None:
        import slow_module  # type: ignore[import-not-found] # it is written by the test

        done.append(slow_module.value)

    source = "import time\ntime.sleep(0.01)\nvalue = object()\n"
    with modules(slow_module=source), heartbeat() as heart:
        by_name = lambda: done.append(importlib.import_module("slow_module").value)  # noqa: E731
        _together(work, work, work, by_name)
        assert heart.ticks
    assert len(done) == 4 and len(set(done)) == 1


def test_async_tasks_that_import_the_same_module_wait_for_each_other() -> None:
    """They have the same thread's identity, which is what the import system goes by."""
    done: list[Any] = []

    async def work() -> None:
        done.append(importlib.import_module("slow_module").value)

    async def import_thrice() -> None:
        async with aevent.TaskGroup() as group:
            for _ in range(3):
                group.spawn(work)

    with modules(slow_module="import time\ntime.sleep(0.005)\nvalue = object()\n"):
        aevent.await_(import_thrice())
    assert len(done) == 3 and len(set(done)) == 1


def test_modules_that_import_each_other_in_two_threads() -> None:
    """A deadlock is found: one of them sees the other half-way, as in plain Python."""
    one = "import time\ntime.sleep(0.005)\nimport module_two\nvalue = 1\n"
    two = "import time\ntime.sleep(0.005)\nimport module_one\nvalue = 2\n"
    done: list[int] = []
    with modules(module_one=one, module_two=two):
        _together(
            lambda: done.append(importlib.import_module("module_one").value),
            lambda: done.append(importlib.import_module("module_two").value),
        )
    assert sorted(done) == [1, 2]


def test_an_import_that_fails_lets_the_next_thread_try() -> None:
    tries: list[int] = []
    done: list[str] = []
    sys.modules["tries_of_the_test"] = tries  # type: ignore[assignment]
    source = """
import sys, time
tries = sys.modules["tries_of_the_test"]
tries.append(1)
time.sleep(0.001)
if len(tries) == 1:
    raise ValueError("the first time")
"""

    def work() -> None:
        try:
            importlib.import_module("fails_at_first")
            done.append("imported")
        except ValueError:
            done.append("failed")

    with modules(fails_at_first=source):
        _together(work, work, work)
    del sys.modules["tries_of_the_test"]
    assert sorted(done) == ["failed", "imported", "imported"]


def test_a_cancelled_import_leaves_no_lock() -> None:
    source = "import time\ntime.sleep(wait)\n"
    with modules(very_slow="import time\ntime.sleep(100)\n"):
        waiting = threading.Thread(target=_import_at_most, args=(0.005,))
        with aevent.move_on_after(0.01) as scope:
            waiting.start()
            importlib.import_module("very_slow")
        assert scope.cancelled_caught
        waiting.join()
    with modules(very_slow=source.replace("wait", "0")):
        importlib.import_module("very_slow")


def _import_at_most(seconds: float) -> None:
    with aevent.move_on_after(seconds):
        importlib.import_module("very_slow")


def test_a_real_thread_waits_for_a_green_ones_import() -> None:
    done: list[Any] = []
    with modules(slow_module="import time\ntime.sleep(0.01)\nvalue = 1\n"):

        def green() -> None:
            done.append(importlib.import_module("slow_module").value)

        def real() -> None:
            aevent.offload(green)

        _together(green, real)
    assert done == [1, 1]


def test_a_green_thread_under_native_waits_for_anothers_import() -> None:
    done: list[Any] = []
    with modules(slow_module="import time\ntime.sleep(0.005)\nvalue = 1\n"):

        def green() -> None:
            done.append(importlib.import_module("slow_module").value)

        def blocking() -> None:
            with aevent.native():
                green()

        _together(green, blocking)
    assert done == [1, 1]


def test_the_import_lock_is_held_by_one_green_thread() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        _imp.acquire_lock()
        _imp.acquire_lock()
        try:
            order.append(name)
            time.sleep(0.001)
            order.append(name)
        finally:
            _imp.release_lock()
            _imp.release_lock()

    with heartbeat() as heart:
        _together(*(functools.partial(work, name) for name in "abc"))
        assert heart.ticks
    assert order == ["a", "a", "b", "b", "c", "c"]
    assert not _imp.lock_held()
    with pytest.raises(RuntimeError):
        _imp.release_lock()


def test_a_fork_waits_for_the_import_lock() -> None:
    """Its child must not see a module half-way, and has the lock for itself."""
    entered, order = threading.Event(), []

    def work() -> None:
        _imp.acquire_lock()
        entered.set()
        time.sleep(0.005)
        order.append("complete")
        _imp.release_lock()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    child = os.fork()
    if not child:
        try:
            _imp.acquire_lock()
            _imp.release_lock()
            os._exit(0 if order == ["complete"] and not _imp.lock_held() else 1)
        finally:
            os._exit(2)
    assert order == ["complete"]
    assert os.waitpid(child, 0) == (child, 0)
    thread.join()
    assert not _imp.lock_held()


def test_a_fork_under_the_import_lock() -> None:
    _imp.acquire_lock()
    child = os.fork()
    _imp.release_lock()
    if not child:
        os._exit(1 if _imp.lock_held() else 0)
    assert os.waitpid(child, 0) == (child, 0)
    assert not _imp.lock_held()


def test_a_real_thread_forks_while_a_green_one_has_the_import_lock() -> None:
    def fork() -> int:
        child = os.fork()
        if not child:
            os._exit(_take_and_leave())
        return os.waitpid(child, 0)[1]

    entered, go_on = threading.Event(), threading.Event()

    def work() -> None:
        _imp.acquire_lock()
        entered.set()
        time.sleep(0.005)
        _imp.release_lock()
        go_on.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    assert aevent.offload(fork) == 0
    go_on.set()
    thread.join()


def _take_and_leave() -> int:
    """In the child, whose only thread is a real one."""
    aevent.run(lambda: (_imp.acquire_lock(), _imp.release_lock()), backend="native")
    return 1 if _imp.lock_held() else 0


@pytest.mark.parametrize("name", ["json.tool", "wave"])
def test_the_standard_library_is_imported_by_many_at_once(
    name: str, fresh_ok: Any, backend: str
) -> None:
    script = f"""
import sys
import aevent
aevent.setup(sys.argv[1])
import importlib, threading

def main():
    load = importlib.import_module
    threads = [threading.Thread(target=load, args=({name!r},)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

aevent.run(main)
"""
    fresh_ok(script, backend)


HOSTS_TASK = """
import pathlib, sys
import aevent
aevent.setup(sys.argv[1])
import anyio

pathlib.Path(__file__).with_name("slow_module.py").write_text(sys.argv[2])
order = []
importing = go_on = False

def green():
    import slow_module
    order.append("green")

def spin():
    while not go_on:
        pass

async def main():
    global importing, go_on
    async with aevent.runner(), aevent.TaskGroup() as group:
        group.spawn(spin)
        group.spawn(green)
        while "slow_module" not in sys.modules:
            await anyio.sleep(0)
        importing = True
        import slow_module
        order.append("host")
        go_on = True
    assert slow_module.value == 1
    print(*sorted(order))

if sys.argv[1] == "asyncio":
    import asyncio
    asyncio.run(main())
else:
    import trio
    trio.run(main)
"""


@pytest.mark.parametrize(
    "source",
    [
        "import __main__, time\nwhile not __main__.importing:\n    time.sleep(0.001)\n"
        "time.sleep(0.01)\nvalue = 1\n",
        "import __main__, time\nwhile not __main__.importing:\n    pass\n"
        "end = time.thread_time() + 0.1\nwhile time.thread_time() < end:\n    pass\nvalue = 1\n",
    ],
    ids=["waits", "computes"],
)
def test_a_hosts_task_imports_what_a_green_thread_is_importing(
    source: str, fresh_ok: Any, backend: str
) -> None:
    """It cannot park, and the green thread is in the same OS thread."""
    if backend != "native":
        assert fresh_ok(HOSTS_TASK, backend, source) == "green host\n"


IN_PORTAL = """
import pathlib, sys
import aevent
aevent.setup(sys.argv[1])
import anyio

pathlib.Path(__file__).with_name("slow_module.py").write_text(sys.argv[2])
beats = 0

async def heart():
    global beats
    while beats >= 0:
        beats += 1
        await anyio.sleep(0)

async def main():
    global beats
    async with aevent.TaskGroup() as group:
        group.start_soon(heart)
        while not beats:
            await anyio.sleep(0)
        before = beats
        import slow_module
        print(beats - before)
        beats = -1

aevent.run(main)
"""


def test_a_hosts_task_with_a_portal_imports_without_letting_others_run(
    fresh_ok: Any, backend: str
) -> None:
    """Unless the module waits: they might need it, and those without a portal cannot park."""
    source = (
        "import threading, time\nlock = threading.Lock()\nend = time.thread_time() + 0.05\n"
        "while time.thread_time() < end:\n    with lock:\n        pass\n"
    )
    if backend != "native":
        assert fresh_ok(IN_PORTAL, backend, source) == "0\n"
