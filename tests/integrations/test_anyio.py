"""`anyio.run(main, backend="aevent")`: anyio's own suite says the rest, see `tests/anyio`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

import aevent
import aevent.testing
from aevent.integrations import anyio as integration


def run(fn: Any, *args: Any) -> Any:
    return anyio.run(fn, *args, backend="aevent")


def test_importing_aevent_is_enough_and_imports_no_anyio() -> None:
    program = (
        "import sys, aevent\n"
        "assert not any(name.partition('.')[0] == 'anyio' for name in sys.modules)\n"
        "import anyio\n"
        "assert 'aevent.integrations.anyio.backend' not in sys.modules\n"
        "async def main(): return 'done'\n"
        "print(anyio.run(main, backend='aevent'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_anyio_may_come_first() -> None:
    program = "import anyio, aevent\nasync def main(): pass\nanyio.run(main, backend='aevent')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_setup_patches_first_finds_what_is_imported_later() -> None:
    program = (
        "import aevent\naevent.setup('asyncio')\nimport anyio\n"
        "async def main(): pass\nanyio.run(main, backend='aevent')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_version_of_anyio_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration.importlib.metadata, "version", lambda name: "5.0.1")
    with pytest.raises(aevent.AeventError, match=r"works with anyio 4\.16 .* but anyio 5\.0\.1"):
        integration.check_version()


def test_an_option_that_does_not_exist_is_refused() -> None:
    async def main() -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="has no option 'debug'"):
        anyio.run(main, backend="aevent", backend_options={"debug": True})


def test_the_library_is_aevent() -> None:
    async def main() -> str:
        return sniffio.current_async_library()

    assert run(main) == "aevent"


NAMES = """
import aevent
aevent.setup("native")
import sniffio

def green():
    try:
        print(sniffio.current_async_library())
    except sniffio.AsyncLibraryNotFoundError:
        print("none")

async def main():
    print(sniffio.current_async_library())
    async with aevent.TaskGroup() as tg:
        tg.spawn(green)

aevent.run(main)
green()
"""


def test_the_library_is_aevent_in_a_patched_process_too_but_not_in_green_threads() -> None:
    done = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["aevent", "none", "none"], "")


def test_tasks_scopes_and_streams() -> None:
    async def produce(send: Any, *, task_status: TaskStatus[str]) -> str:
        async with send:
            task_status.started("ready")
            for number in range(3):
                await send.send(number)
        return "sent"

    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](0)
        async with anyio.create_task_group() as tg, receive:
            handle = await tg.start(produce, send, return_handle=True)
            assert handle.start_value == "ready"
            assert [item async for item in receive] == [0, 1, 2]
            assert await handle == "sent"
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


def test_a_task_group_spawns_synchronous_functions_too() -> None:
    seen: list[Any] = []

    async def asynchronous(value: str) -> None:
        seen.append(value)

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            scope = tg.spawn(seen.append, "synchronous")  # type: ignore[attr-defined]
            tg.spawn(asynchronous, "asynchronous")  # type: ignore[attr-defined]
            assert isinstance(scope, aevent.CancelScope)

    run(main)
    assert sorted(seen) == ["asynchronous", "synchronous"]


def test_a_task_group_spawns_the_wait_for_an_event() -> None:
    async def main() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as tg:
            scope = tg.spawn(event.wait)  # type: ignore[attr-defined]
            await anyio.wait_all_tasks_blocked()
            assert event.statistics().tasks_waiting == 1
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert event.statistics().tasks_waiting == 0
            tg.start_soon(event.wait)
            event.set()

    run(main)


def test_aevents_own_functions_work_beside_anyios() -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(anyio.sleep_forever)
                tg.spawn(aevent.sleep_forever)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught

    run(main)


def test_sockets_and_worker_threads() -> None:
    async def echo(stream: SocketStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tg, listener:
            tg.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"x" * 1_000_000)
                await stream.send_eof()
                assert sum([len(data) async for data in stream]) == 1_000_000
            tg.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 0) is None

    run(main)


def test_a_mock_clock_is_an_option() -> None:
    async def main() -> float:
        begin = anyio.current_time()
        await anyio.sleep(1000)
        return anyio.current_time() - begin

    clock = aevent.testing.MockClock(autojump_threshold=0)
    assert anyio.run(main, backend="aevent", backend_options={"clock": clock}) >= 1000


def test_anyios_functions_work_in_a_program_of_aevents() -> None:
    async def main() -> int:
        async with anyio.create_task_group() as tg:
            handle = tg.start_soon(anyio.to_thread.run_sync, lambda: 3)
        return handle.return_value

    assert aevent.run(main, backend="native") == 3


def test_cancellation_says_why() -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel("nobody asks any more")
            with pytest.raises(
                aevent.Cancelled, match=r"nobody asks any more \(by the task .*main"
            ):
                await anyio.sleep_forever()
        with anyio.CancelScope(deadline=-1), pytest.raises(aevent.Cancelled, match="its deadline"):
            await anyio.sleep_forever()
        with anyio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(aevent.Cancelled, match=r"^$"):
                await anyio.sleep_forever()

    run(main)


def test_a_checkpoint_of_a_cancelled_task_lets_others_run() -> None:
    seen: list[str] = []

    async def other() -> None:
        seen.append("other")

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    seen.append("cancelled")

    run(main)
    assert seen == ["other", "cancelled"]


@pytest.mark.parametrize("first", ["set", "cancel"])
def test_whether_a_waiter_is_told_or_cancelled_first_decides(first: str) -> None:
    outcome: list[str] = []

    async def waiter(event: anyio.Event, scope: anyio.CancelScope) -> None:
        with scope:
            await event.wait()
            outcome.append("told")
        if scope.cancelled_caught:
            outcome.append("cancelled")

    async def main() -> None:
        event, scope = anyio.Event(), anyio.CancelScope()
        async with anyio.create_task_group() as tg:
            tg.start_soon(waiter, event, scope)
            await anyio.wait_all_tasks_blocked()
            assert event.statistics().tasks_waiting == 1
            if first == "set":
                event.set()
                scope.cancel()
            else:
                scope.cancel()
                event.set()

    run(main)
    assert outcome == ["told" if first == "set" else "cancelled"]


def test_a_socket_that_is_closed_while_a_task_waits_for_it() -> None:
    async def close_soon(stream: SocketStream) -> None:
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with listener, await anyio.connect_tcp("127.0.0.1", port) as stream:
            async with anyio.create_task_group() as tg:
                tg.start_soon(close_soon, stream)
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()

    run(main)


def test_new_tasks_take_their_turn_before_those_that_began_earlier_go_on() -> None:
    order: list[str] = []

    async def child(name: str) -> None:
        for step in range(2):
            order.append(f"{name}{step}")
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            for name in "abc":
                tg.start_soon(child, name)

    for _ in range(100):
        order.clear()
        run(main)
        assert order == ["a0", "b0", "c0", "a1", "b1", "c1"]


IN_A_GREEN_THREAD = """
import aevent
aevent.setup({backend!r})
import anyio, anyio.from_thread, threading, time

async def inner(name):
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 0.01)
    return await anyio.to_thread.run_sync(str.upper, name)

def main():
    ticks = []
    def tick():
        for _ in range(3):
            time.sleep(0.001)
            ticks.append(1)
    thread = threading.Thread(target=tick)
    thread.start()
    print(anyio.run(inner, "a", backend="aevent"))
    with anyio.from_thread.start_blocking_portal("aevent") as portal:
        print(portal.call(inner, "b"), portal.start_task_soon(inner, "c").result())
    thread.join()
    print(len(ticks))

aevent.run(main)
"""


@pytest.mark.parametrize("host", ["native", "asyncio", "trio"])
def test_in_a_green_thread(host: str) -> None:
    program = IN_A_GREEN_THREAD.format(backend=host)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.split(), done.stderr) == (["A", "B", "C", "3"], "")


PYTEST_FILE = """
import anyio, pytest, sniffio
import aevent
from contextvars import ContextVar

variable = ContextVar("variable", default=None)

@pytest.fixture(scope="module")
def anyio_backend():
    return "aevent"

@pytest.fixture
async def value():
    variable.set("set in a fixture")
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep_forever)
        yield 3
        tg.cancel_scope.cancel()

@pytest.mark.anyio
async def test_passes(value):
    assert (value, variable.get()) == (3, "set in a fixture")
    assert sniffio.current_async_library() == "aevent"

@pytest.mark.anyio
async def test_fails(value):
    await anyio.sleep(0)
    assert False
"""


def test_the_pytest_plugin_of_anyio(tmp_path: Path) -> None:
    (tmp_path / "test_file.py").write_text(PYTEST_FILE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:trio"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr


NESTED = """
import sys
import aevent
aevent.setup(sys.argv[1])
import asyncio, threading
import anyio, sniffio, trio

def name():
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None

async def name_inside():
    await anyio.sleep(0)
    return name()

def loops(depth):
    assert name() is None
    # By the loop that drives the thread, and it has none of its own after that.
    assert aevent.await_(name_inside()) == outer
    assert name() is None
    assert asyncio.run(name_inside()) == "asyncio"
    assert trio.run(name_inside) == "trio"
    for backend in ("asyncio", "trio", "aevent"):
        assert anyio.run(name_inside, backend=backend) == backend
    if depth:
        anyio.run(starts_thread, depth - 1, backend="asyncio")
    assert name() is None

async def starts_thread(depth):
    # In a real thread, for such a loop is not ours.
    await anyio.to_thread.run_sync(lambda: None)
    thread = threading.Thread(target=check, args=(depth,))
    thread.start()
    thread.join()

def check(depth):
    assert name() is None
    assert anyio.run(name_inside, backend="trio") == "trio"

async def main():
    global outer
    outer = name()
    async with aevent.runner():
        async with aevent.TaskGroup() as group:
            group.spawn(loops, 1)
        async with anyio.create_task_group() as group:
            group.spawn(loops, 1)
    assert name() == outer

backend = {"native": "aevent"}.get(sys.argv[1], sys.argv[1])
anyio.run(main, backend=backend)
print("ok")
"""


@pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
def test_a_green_thread_of_anyios_program_runs_loops_of_its_own(
    backend: str, fresh_ok: Callable[..., str]
) -> None:
    assert fresh_ok(NESTED, backend) == "ok\n"
