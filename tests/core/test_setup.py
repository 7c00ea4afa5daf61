"""Choosing a backend, and what is said about mistakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import aevent

Run = Callable[..., Any]
Fresh = Callable[..., str]


def test_setup_twice_with_the_same_backend_is_fine(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import aevent
aevent.setup("native")
import threading
start = threading.Thread.start
aevent.setup("native")
assert threading.Thread.start is start
print(aevent.run(lambda: "ran"))
"""
    )
    assert out == "ran\n"


def test_setup_with_another_backend_says_what_to_do(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import aevent
aevent.setup("native")
try:
    aevent.setup("asyncio")
except aevent.AeventError as error:
    print(error)
"""
    )
    assert "set up for 'native' already" in out
    assert "aevent.run(…, backend='asyncio')" in out


def test_setup_again_without_a_backend_keeps_the_chosen_one(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import aevent
aevent.setup("asyncio")
aevent.setup()
print(aevent.run(lambda: aevent._core.get_host().name))
""",
        env={"AEVENT_BACKEND": "native"},
    )
    assert out == "asyncio\n"


DRIVER = """
import aevent
{setup}
from aevent import _core
host = aevent.run(lambda: _core.get_host())
print("native" if host is None else host.name)
"""


@pytest.mark.parametrize("name", ["native", "asyncio", "trio"])
def test_the_environment_chooses_where_nothing_else_does(fresh_ok: Fresh, name: str) -> None:
    source = DRIVER.format(setup="aevent.setup()")
    assert fresh_ok(source, env={"AEVENT_BACKEND": name}) == f"{name}\n"


def test_setup_overrules_the_environment(fresh_ok: Fresh) -> None:
    source = DRIVER.format(setup="aevent.setup('trio')")
    assert fresh_ok(source, env={"AEVENT_BACKEND": "asyncio"}) == "trio\n"


@pytest.mark.parametrize("name", ["native", "asyncio", "trio"])
def test_setup_chooses_what_run_uses(fresh_ok: Fresh, name: str) -> None:
    assert fresh_ok(DRIVER.format(setup=f"aevent.setup({name!r})")) == f"{name}\n"


def test_native_is_the_default(fresh_ok: Fresh) -> None:
    assert fresh_ok(DRIVER.format(setup="aevent.setup()")) == "native\n"


@pytest.mark.parametrize("name", ["native", "asyncio", "trio"])
def test_only_the_chosen_host_is_imported(fresh_ok: Fresh, name: str) -> None:
    source = f"import sys, aevent\naevent.setup({name!r})\nprint('trio' in sys.modules)"
    assert fresh_ok(source) == f"{name == 'trio'}\n"


def test_a_backend_that_there_is_not_is_named_with_the_choices(fresh_ok: Fresh) -> None:
    message = r"there is no backend 'twisted': choose one of 'native', 'asyncio', 'trio'"
    with pytest.raises(aevent.AeventError, match=message):
        aevent.run(lambda: None, backend="twisted")
    with pytest.raises(aevent.AeventError, match=message):
        aevent.setup("twisted")
    out = fresh_ok(
        """
import aevent
try:
    aevent.setup()
except aevent.AeventError as error:
    print(error)
""",
        env={"AEVENT_BACKEND": "twisted"},
    )
    assert "there is no backend 'twisted'" in out


def test_a_host_that_is_not_installed_is_named_and_nothing_is_patched(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import sys
sys.modules["trio"] = None
import aevent, time
sleep = time.sleep
try:
    aevent.setup("trio")
except aevent.AeventError as error:
    print(error)
assert time.sleep is sleep
"""
    )
    assert "pip install aevent[trio]" in out


def test_exclude_leaves_a_module_alone(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import time, aevent
sleep = time.sleep
aevent.setup(exclude=["time"])
print(time.sleep is sleep)
try:
    aevent.setup(exclude=["tim"])
except aevent.AeventError as error:
    print(error)
"""
    )
    assert out.startswith("True\n") and "exclude names 'tim'" in out


def test_import_alone_patches_nothing(fresh_ok: Fresh) -> None:
    out = fresh_ok(
        """
import socket, threading, time
before = time.sleep, threading.Lock, threading.Thread.start, socket.socket.recv
import aevent
print(before == (time.sleep, threading.Lock, threading.Thread.start, socket.socket.recv))
"""
    )
    assert out == "True\n"


def test_run_works_without_setup(fresh_ok: Fresh) -> None:
    source = """
import aevent
async def child():
    await aevent.sleep(0.001)
    print("child")
async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(child)
for name in ("native", "asyncio", "trio"):
    aevent.run(main, backend=name)
"""
    assert fresh_ok(source) == "child\n" * 3


def test_a_coroutine_object_given_to_run_says_how_to_write_it(run: Run) -> None:
    async def main() -> None:
        pass

    with pytest.raises(TypeError, match=r"write run\(fn, arg\), not run\(fn\(arg\)\)"):
        run(main())


def test_what_is_not_callable_given_to_run_is_named(run: Run) -> None:
    with pytest.raises(TypeError, match=r"run\(\) expects a function, not 5"):
        run(5)


def test_a_sync_function_that_returns_a_coroutine_is_reported(run: Run) -> None:
    async def main() -> None:
        pass

    with pytest.raises(TypeError, match="pass the async function itself"):
        run(lambda: main())


def test_native_takes_no_options_of_hosts() -> None:
    with pytest.raises(TypeError, match="native backend has no option 'debug'"):
        aevent.run(lambda: None, backend="native", debug=True)


def test_hosts_take_their_options() -> None:
    import asyncio

    async def debugs() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert aevent.run(debugs, backend="asyncio", debug=True) is True
    assert aevent.run(debugs, backend="asyncio", debug=False) is False

    trio = pytest.importorskip("trio")
    instruments: list[str] = []

    class Instrument(trio.abc.Instrument):  # type: ignore[misc, name-defined]
        def before_run(self) -> None:
            instruments.append("before_run")

    aevent.run(lambda: None, backend="trio", instruments=[Instrument()])
    assert instruments == ["before_run"]


def test_outside_a_task_threads_are_real() -> None:
    idents: list[int] = []
    thread = threading.Thread(target=lambda: idents.append(threading.get_native_id()))
    thread.start()
    thread.join()
    assert idents != [threading.get_native_id()]


def test_a_green_thread_without_a_runner_says_what_to_do() -> None:
    import asyncio

    async def main() -> None:
        async with aevent.runner():
            pass
        with pytest.raises(RuntimeError, match=r"async with aevent\.runner\(\)|outside a task"):
            async with aevent.TaskGroup() as group:
                group.spawn(print)

    asyncio.run(main())


def test_a_thread_started_when_its_runner_has_ended_is_an_error(run: Run) -> None:
    from aevent import _core

    kept: list[Any] = []

    async def main() -> None:
        async with aevent.runner() as children:
            kept.append(children)
        with pytest.raises(RuntimeError, match="nothing can be started in it any more"):
            children.spawn(print)
        assert isinstance(children, _core.Children)

    run(main)
    assert kept


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("native", "the native backend has no option 'colour'"),
        ("asyncio", "no option 'colour': it has clock, debug, loop_factory"),
        ("trio", "the trio backend has no option 'colour': it has clock, instruments, "),
    ],
)
def test_an_option_that_the_backend_does_not_have_is_named(backend: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        aevent.run(print, backend=backend, colour="red")
