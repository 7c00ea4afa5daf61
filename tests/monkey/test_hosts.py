"""asyncio, trio and anyio go on using real threads, selectors and locks."""

from __future__ import annotations

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
    work = asyncio.ensure_future(asyncio.to_thread(time.sleep, 0.05))
    while not work.done():
        ticks += 1
        await asyncio.sleep(0.001)
    assert ticks > 10
    # From a thread into the loop.
    async def answer():
        return "answer"
    ask = lambda: asyncio.run_coroutine_threadsafe(answer(), loop).result(5)
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
    async def work():
        nonlocal done
        await trio.to_thread.run_sync(time.sleep, 0.05)
        done = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        while not done:
            ticks += 1
            await trio.sleep(0.001)
    assert ticks > 10
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
