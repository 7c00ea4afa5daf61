"""Event loops in green threads: each is its thread's, and lets the others run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio
import trio

from aevent import _core
from tests.monkey.heartbeat import heartbeat, others_go_on
from tests.monkey.loops import COUNT, run_in_threads


class Rendezvous:
    """Each caller waits until all have come: so all of them run at once."""

    def __init__(self, count: int = COUNT) -> None:
        self.barrier = threading.Barrier(count)

    def __call__(self) -> None:
        self.barrier.wait(30)


def test_asyncio_runs_in_several_threads_at_once() -> None:
    together = Rendezvous()
    loops: set[Any] = set()

    async def main(number: int) -> int:
        loop = asyncio.get_running_loop()
        loops.add(loop)
        assert loop._thread_id == threading.get_ident()  # type: ignore[attr-defined]
        together()
        for _ in range(5):
            await asyncio.sleep(0.001)
            assert asyncio.get_running_loop() is loop
            assert asyncio.get_event_loop() is loop
            assert asyncio.current_task() is not None
            assert asyncio.Future().get_loop() is loop
            time.sleep(0)
            assert asyncio.get_running_loop() is loop
        assert await asyncio.gather(*(asyncio.sleep(0.001, each) for each in range(3))) == [0, 1, 2]
        return number

    with heartbeat() as heart:
        assert run_in_threads(lambda number: asyncio.run(main(number))) == list(range(COUNT))
        assert heart.ticks
    assert len(loops) == COUNT
    assert asyncio._get_running_loop() is None


def test_trio_runs_in_several_threads_at_once() -> None:
    together = Rendezvous()

    async def main(number: int) -> int:
        token = trio.lowlevel.current_trio_token()
        task = trio.lowlevel.current_task()
        together()
        for _ in range(5):
            await trio.sleep(0.001)
            assert trio.lowlevel.current_trio_token() is token
            assert trio.lowlevel.current_task() is task
            assert sniffio.current_async_library() == "trio"
            time.sleep(0)
            assert trio.lowlevel.current_task() is task
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.sleep, 0.001)
        return number

    with heartbeat() as heart:
        assert run_in_threads(lambda number: trio.run(main, number)) == list(range(COUNT))
        assert heart.ticks


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_anyio_runs_in_several_threads_at_once(library: str, fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time
import anyio, anyio.to_thread, sniffio

def blocking():
    "If it stopped the others, it would never end."
    until = beats + 3
    while beats < until:
        time.sleep(0.001)
    return threading.get_native_id()

here = threading.get_native_id()
together = threading.Barrier(4)
done = []
beats = 0

async def main():
    assert sniffio.current_async_library() == sys.argv[2]
    together.wait(30)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(anyio.sleep, 0.001)
    assert await anyio.to_thread.run_sync(blocking) != here
    with anyio.move_on_after(0.002) as scope:
        await anyio.sleep(3600)
    assert scope.cancelled_caught
    done.append(1)

def program():
    global beats
    threads = [
        threading.Thread(target=lambda: anyio.run(main, backend=sys.argv[2])) for _ in range(4)
    ]
    for thread in threads: thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.0005)
        beats += 1
    assert len(done) == 4

aevent.run(program)
"""
    fresh_ok(script, backend, library)


def test_a_green_thread_sees_no_loop() -> None:
    def look() -> None:
        assert asyncio._get_running_loop() is None
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            trio.lowlevel.current_task()
        assert not trio.lowlevel.in_trio_run()
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()

    run_in_threads(lambda number: look())

    # Nor another green thread's.
    async def nested() -> None:
        run_in_threads(lambda number: look())
        assert asyncio._get_running_loop() is not None

    run_in_threads(lambda number: asyncio.run(nested()))

    async def nested_in_trio() -> None:
        run_in_threads(lambda number: look())
        assert trio.lowlevel.in_trio_run()

    run_in_threads(lambda number: trio.run(nested_in_trio))


def test_the_main_task_may_run_a_loop() -> None:
    async def in_asyncio() -> str:
        await asyncio.sleep(0.001)
        return "asyncio"

    async def in_trio() -> str:
        await trio.sleep(0.001)
        return "trio"

    with heartbeat() as heart:
        assert asyncio.run(in_asyncio()) == "asyncio"
        assert trio.run(in_trio) == "trio"
        assert anyio.run(in_asyncio, backend="asyncio") == "asyncio"
        assert anyio.run(in_trio, backend="trio") == "trio"
        assert heart.ticks

    async def both() -> None:
        # One in the other, as threads would not do it either, but it goes.
        assert trio.run(in_trio) == "trio"
        await asyncio.sleep(0)

    asyncio.run(both())


def test_the_current_event_loop_is_the_threads() -> None:
    def work(number: int) -> None:
        with pytest.raises(RuntimeError, match="no current event loop"):
            asyncio.get_event_loop_policy().get_event_loop()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        time.sleep(0.001)
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
        loop.run_until_complete(asyncio.sleep(0.001))
        asyncio.set_event_loop(None)
        loop.close()

    run_in_threads(work)


def test_a_loop_in_a_background_thread_serves_others() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def answer(number: int) -> int:
        await asyncio.sleep(0.001)
        assert asyncio.get_running_loop() is loop
        return number

    def ask(number: int) -> int:
        return asyncio.run_coroutine_threadsafe(answer(number), loop).result(30)

    with heartbeat() as heart:
        assert run_in_threads(ask) == list(range(COUNT))
        assert heart.ticks
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_sockets_between_loops_in_threads() -> None:
    ready: list[Any] = []
    listening = threading.Event()

    async def serve() -> None:
        done = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            await writer.drain()
            writer.close()
            done.set()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        ready.append(server.sockets[0].getsockname())
        listening.set()
        async with server:
            await done.wait()

    async def ask() -> bytes:
        stream = await trio.open_tcp_stream(*ready[0][:2])
        async with stream:
            await stream.send_all(b"hello")
            return bytes(await stream.receive_some(100))

    def client() -> bytes:
        listening.wait()
        return trio.run(ask)

    assert run_in_threads(lambda number: (lambda: asyncio.run(serve()), client)[number](), 2) == [
        None,
        b"hello",
    ]


def test_nested_loops_use_real_worker_threads() -> None:
    here = threading.get_native_id()

    def blocking() -> int:
        # If it stopped the others, this would never end.
        until = heart.ticks + 3
        while heart.ticks < until:
            time.sleep(0.001)
        return threading.get_native_id()

    async def in_asyncio() -> None:
        assert await asyncio.to_thread(blocking) != here
        loop = asyncio.get_running_loop()
        assert await loop.getaddrinfo("localhost", 80)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, blocking) != here

    async def in_trio() -> None:
        assert await trio.to_thread.run_sync(blocking) != here
        assert await trio.to_thread.run_sync(trio.from_thread.run, trio.sleep, 0) is None
        assert await trio.socket.getaddrinfo("localhost", 80)

    with heartbeat() as heart:
        run_in_threads(lambda number: asyncio.run(in_asyncio()))
        run_in_threads(lambda number: trio.run(in_trio))


def test_nested_loops_run_child_processes() -> None:
    command = [sys.executable, "-S", "-c", "print('hello')"]

    async def in_asyncio() -> bytes:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out

    async def in_trio() -> bytes:
        done = await trio.run_process(command, capture_stdout=True)
        assert done.returncode == 0
        return bytes(done.stdout)

    def side_by_side() -> None:
        assert run_in_threads(lambda number: asyncio.run(in_asyncio()), 2) == [b"hello\n"] * 2
        assert run_in_threads(lambda number: trio.run(in_trio), 2) == [b"hello\n"] * 2

    others_go_on(side_by_side, at_least=3)
    assert asyncio.run(in_asyncio()) == b"hello\n"
    assert trio.run(in_trio) == b"hello\n"


def test_blocking_portals() -> None:
    async def answer(number: int) -> int:
        await anyio.sleep(0.001)
        return number

    for library in ("asyncio", "trio"):
        with anyio.from_thread.start_blocking_portal(library) as portal, heartbeat() as heart:
            assert run_in_threads(lambda number: portal.call(answer, number)) == list(range(COUNT))
            assert heart.ticks


def test_green_threads_call_into_a_loop_of_another() -> None:
    async def answer(number: int) -> int:
        await anyio.sleep(0.01)
        return number

    tokens: list[Any] = []
    ready = threading.Event()

    async def in_trio() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        over = trio.Event()
        tokens.append(over)
        ready.set()
        await over.wait()

    thread = threading.Thread(target=trio.run, args=(in_trio,))
    thread.start()
    ready.wait()
    token, over = tokens
    with heartbeat() as heart:
        assert run_in_threads(
            lambda number: trio.from_thread.run(answer, number, trio_token=token)
        ) == list(range(COUNT))
        assert heart.ticks
    trio.from_thread.run_sync(over.set, trio_token=token)
    thread.join()


def test_a_loops_own_sockets_do_not_wait() -> None:
    """What a loop does with sockets that do not block is not ours to wait for."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            with pytest.raises(BlockingIOError):
                left.recv(1)
            receiving = asyncio.ensure_future(loop.sock_recv(left, 5))
            await asyncio.sleep(0)
            await loop.sock_sendall(right, b"hello")
            return await receiving

    assert run_in_threads(lambda number: asyncio.run(main())) == [b"hello"] * COUNT


def test_the_slot_is_free_while_a_task_with_a_loop_waits() -> None:
    seen: list[Any] = []

    async def main() -> None:
        other = threading.Thread(target=lambda: seen.append(asyncio._get_running_loop()))
        other.start()
        other.join()
        assert asyncio._get_running_loop() is not None

    asyncio.run(main())
    assert seen == [None]
    assert _core.in_task()
