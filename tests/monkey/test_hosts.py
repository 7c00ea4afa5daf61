"""asyncio, trio and anyio go on using real threads, selectors and locks."""

from __future__ import annotations

import sys
from typing import Any

import pytest

PREAMBLE = """
import sys
import aevent
{early}
aevent.setup(sys.argv[1])
import threading, time, select, selectors

def system_thread():
    "Where it is called: in a real thread of its own? Are its calls the originals?"
    time.sleep(0.001)
    return threading.get_native_id()

here = threading.get_native_id()
"""

ASYNCIO = """
import asyncio, concurrent.futures, contextvars

async def check():
    assert await asyncio.to_thread(system_thread) != here
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, system_thread) != here
    if "portal" not in sys.argv:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, system_thread) != here
    # They run beside the loop: it goes on while they work.
    ticks = 0
    def wait_for_ticks():
        while ticks < 10:
            time.sleep(0.001)
    work = asyncio.ensure_future(asyncio.to_thread(wait_for_ticks))
    while not work.done():
        ticks += 1
        await asyncio.sleep(0.001)
    # From a thread into the loop.
    async def answer():
        return "answer"
    ask = lambda: asyncio.run_coroutine_threadsafe(answer(), loop).result(30)
    assert await asyncio.to_thread(ask) == "answer"
    reader, writer = await asyncio.open_connection(*server_address)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()
    assert await loop.getaddrinfo("localhost", 80)

async def echo(reader, writer):
    writer.write(await reader.read(100))
    await writer.drain()
    writer.close()

async def main():
    global server_address
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    server_address = server.sockets[0].getsockname()
    async with server:
        await check()
        await asyncio.create_task(check())
        async with aevent.runner():
            await aevent.per_task()
            sys.argv.append("portal")
            await check()

asyncio.run(main())
"""

TRIO = """
import trio, trio.testing

async def check():
    assert await trio.to_thread.run_sync(system_thread) != here
    ticks = 0
    done = False
    def wait_for_ticks():
        while ticks < 10:
            time.sleep(0.001)
    async def work():
        nonlocal done
        await trio.to_thread.run_sync(wait_for_ticks)
        done = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        while not done:
            ticks += 1
            await trio.sleep(0.001)
    ask = lambda: trio.from_thread.run(trio.sleep, 0.001)
    assert await trio.to_thread.run_sync(ask) is None
    assert await trio.socket.getaddrinfo("localhost", 80)
    left, right = trio.socket.socketpair()
    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(right.send, b"x")
            assert await left.recv(1) == b"x"

async def main():
    await check()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
    async with aevent.runner():
        await aevent.per_task()
        await check()

trio.run(main)
"""

ANYIO = """
import anyio, anyio.to_thread, anyio.from_thread

async def check():
    assert await anyio.to_thread.run_sync(system_thread) != here
    ask = lambda: anyio.from_thread.run(anyio.sleep, 0.001)
    assert await anyio.to_thread.run_sync(ask) is None

async def main():
    await check()
    async with anyio.create_task_group() as group:
        group.start_soon(check)
    async with aevent.runner():
        await aevent.per_task()
        await check()

anyio.run(main, backend=sys.argv[2])
with anyio.from_thread.start_blocking_portal(sys.argv[2]) as portal:
    assert portal.call(anyio.to_thread.run_sync, system_thread) != here
"""


@pytest.mark.parametrize("early", [False, True], ids=["after-setup", "before-setup"])
def test_asyncio_uses_real_threads(early: bool, fresh_ok: Any, backend: str) -> None:
    if backend == "asyncio":
        preamble = PREAMBLE.format(early="import asyncio" if early else "")
        fresh_ok(preamble + ASYNCIO, backend)


@pytest.mark.parametrize("early", [False, True], ids=["after-setup", "before-setup"])
def test_trio_uses_real_threads(early: bool, fresh_ok: Any, backend: str) -> None:
    if backend == "trio":
        preamble = PREAMBLE.format(early="import trio" if early else "")
        fresh_ok(preamble + TRIO, backend)


def test_anyio_uses_real_threads(fresh_ok: Any, backend: str) -> None:
    if backend != "native":
        fresh_ok(PREAMBLE.format(early="") + ANYIO, backend, backend)


def test_a_program_set_up_for_another_backend_still_runs_hosts(fresh_ok: Any, backend: str) -> None:
    """Outside tasks a loop is what it was without aevent."""
    if backend == "native":
        plain = ASYNCIO.partition("        async with aevent.runner()")[0]
        fresh_ok(PREAMBLE.format(early="") + plain + "asyncio.run(main())", backend)
        plain = TRIO.partition("    async with aevent.runner()")[0]
        fresh_ok(PREAMBLE.format(early="") + plain + "trio.run(main)", backend)


def test_tasks_that_aevent_runs_use_real_threads(fresh_ok: Any, backend: str) -> None:
    script = {
        "asyncio": "import asyncio\nasync def main():\n    use = asyncio.to_thread\n",
        "trio": "import trio\nasync def main():\n    use = trio.to_thread.run_sync\n",
        "native": "async def main():\n    async def use(fn): return aevent.offload(fn)\n",
    }[backend]
    script += """
    assert await use(system_thread) != here
    async def child():
        assert await use(system_thread) != here
        time.sleep(0.001)
        assert await use(system_thread) != here
    async with aevent.TaskGroup() as group:
        group.start_soon(child)
        group.spawn(child)

aevent.run(main)
"""
    fresh_ok(PREAMBLE.format(early="") + script, backend)


FROM_THREADS = {
    "asyncio": """
import asyncio, concurrent.futures

async def answer(number):
    await asyncio.sleep(0.002)
    return number

async def main():
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    answers = []

    def work(number):
        future = asyncio.run_coroutine_threadsafe(answer(number), loop)
        try:
            future.result(0.0001)
        except concurrent.futures.TimeoutError:
            pass
        answers.append(future.result(30))
        if len(answers) == 3:
            loop.call_soon_threadsafe(finished.set)
""",
    "trio": """
import trio

async def answer(number):
    await trio.sleep(0.002)
    return number

async def main():
    token = trio.lowlevel.current_trio_token()
    finished = trio.Event()
    answers = []

    def work(number):
        answers.append(trio.from_thread.run(answer, number, trio_token=token))
        assert trio.from_thread.run_sync(lambda: number, trio_token=token) == number
        try:
            trio.from_thread.run_sync(lambda: 1 / 0, trio_token=token)
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError
        with aevent.move_on_after(0.002) as scope:
            trio.from_thread.run(trio.sleep, 3600, trio_token=token)
        assert scope.cancelled_caught
        try:
            trio.from_thread.run(answer, number)
        except RuntimeError as error:
            assert "trio_token" in str(error)
        if len(answers) == 3:
            token.run_sync_soon(finished.set)
""",
    "anyio": """
import anyio, anyio.from_thread

async def answer(number):
    await anyio.sleep(0.002)
    return number

async def main():
    finished = anyio.Event()
    answers = []
    done = []
    async with anyio.from_thread.BlockingPortal() as portal:
        def work(number):
            answers.append(portal.call(answer, number))
            with portal.wrap_async_context_manager(context()) as value:
                assert value == "entered"
            done.append(number)
            # The last one only: after that the portal is closed.
            if len(done) == 3:
                portal.call(finished.set)
        for number in range(3):
            threading.Thread(target=work, args=(number,)).start()
        await finished.wait()
    assert sorted(answers) == [0, 1, 2]

import contextlib
@contextlib.asynccontextmanager
async def context():
    yield "entered"

aevent.run(main)
""",
}
THREADS_CALL = """
    for number in range(3):
        threading.Thread(target=work, args=(number,)).start()
    await finished.wait()
    assert sorted(answers) == [0, 1, 2]

aevent.run(main)
"""


@pytest.mark.parametrize("early", [False, True], ids=["after-setup", "before-setup"])
def test_green_threads_call_into_the_hosts_loop(early: bool, fresh_ok: Any, backend: str) -> None:
    """As real threads do: what answers them is the loop that they themselves run on."""
    if backend != "native":
        preamble = PREAMBLE.format(early=f"import {backend}" if early else "")
        fresh_ok(preamble + FROM_THREADS[backend] + THREADS_CALL, backend)


def test_green_threads_call_through_a_blocking_portal(fresh_ok: Any, backend: str) -> None:
    if backend != "native":
        fresh_ok(PREAMBLE.format(early="") + FROM_THREADS["anyio"], backend)


CHILDREN = """
import subprocess, anyio, warnings
{imports}
command = [sys.executable, "-S", "-c",
           "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)"]

async def with_anyio():
    done = await anyio.run_process(command, input=b"hello", check=False)
    assert (done.stdout, done.returncode) == (b"HELLO", 3)

def synchronous():
    done = subprocess.run(command, input=b"hello", stdout=subprocess.PIPE)
    assert (done.stdout, done.returncode) == (b"HELLO", 3)

async def main():
    {prepare}
    await with_host()
    await with_anyio()
    async with aevent.TaskGroup() as group:
        for each in (with_host, with_anyio, synchronous):
            group.spawn(each)
    await aevent.per_task()
    await with_host()
    await with_anyio()
    synchronous()

aevent.run(main)
"""
WITH_ASYNCIO = """
import asyncio

async def with_host():
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = await process.communicate(b"hello")
    assert (out, process.returncode) == (b"HELLO", 3)
"""
WITH_TRIO = """
import trio

async def with_host():
    done = await trio.run_process(command, stdin=b"hello", capture_stdout=True, check=False)
    assert (done.stdout, done.returncode) == (b"HELLO", 3)
"""
WATCHER = """warnings.simplefilter("ignore", DeprecationWarning)
    watcher = asyncio.{watcher}()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
"""


def test_hosts_run_child_processes(fresh_ok: Any, backend: str) -> None:
    if backend != "native":
        imports = {"asyncio": WITH_ASYNCIO, "trio": WITH_TRIO}[backend]
        script = CHILDREN.format(imports=imports, prepare="")
        fresh_ok(PREAMBLE.format(early="") + script, backend)


@pytest.mark.parametrize(
    "watcher",
    [
        "ThreadedChildWatcher",
        "PidfdChildWatcher",
        "SafeChildWatcher",
        "FastChildWatcher",
        "MultiLoopChildWatcher",
    ],
)
def test_asyncios_child_watchers(watcher: str, fresh_ok: Any, backend: str) -> None:
    """Who reaps the children of asyncio may be chosen; nobody takes them from it."""
    if backend != "asyncio" or sys.version_info >= (3, 14):
        return
    script = CHILDREN.format(imports=WITH_ASYNCIO, prepare=WATCHER.format(watcher=watcher))
    if "Fast" in watcher:
        # It reaps whatever child ends, that of others too.
        script = script.replace("with_host, with_anyio, synchronous)", "with_host, with_anyio)")
        script = script.replace("    await with_anyio()\n    synchronous()\n", "")
    fresh_ok(PREAMBLE.format(early="") + script, backend)


def test_a_host_that_another_system_thread_is_importing(fresh_ok: Any, backend: str) -> None:
    script = """
import aevent
aevent.setup("native")
import sys, threading

reached, go = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "asyncio.constants":  # which asyncio.base_events imports
            reached.set()
            go.wait()

sys.meta_path.insert(0, Slow())

def host():
    import asyncio
    asyncio.run(asyncio.sleep(0))

thread = threading.Thread(target=host)
thread.start()
reached.wait()
aevent.run(lambda: print("native"))
go.set()
thread.join()
aevent.run(lambda: print(aevent._core.get_host().name), backend="asyncio")
"""
    if backend == "native":
        assert fresh_ok(script) == "native\nasyncio\n"
