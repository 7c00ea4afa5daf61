"""Every kind of wait, for `storm`: each function parks its task for ever, until it is cancelled.

A poke may wake some; they wait again then, and note in the world what they were handed, so that
nothing gets lost where a wake-up and a cancellation meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from world import World  # type: ignore[import-not-found]

import aevent

LONG = 1e6


Wait = Callable[[World], Any]
#: Each wait with how many tasks of a round may be in it: `None`, as many as there are.
WAITS: list[tuple[Wait, int | None]] = []


def wait(fn: Wait) -> Wait:
    WAITS.append((fn, None))
    return fn


def costly(fn: Wait) -> Wait:
    """For a wait that takes a real thread, or a descriptor for each task."""
    WAITS.append((fn, 4))
    return fn


@wait
def sleep(world: World) -> None:
    time.sleep(LONG)


@wait
def sleep_in_a_scope_with_a_deadline(world: World) -> None:
    with aevent.move_on_after(LONG):
        time.sleep(2 * LONG)


@wait
def lock(world: World) -> None:
    while True:
        with world.lock:
            time.sleep(0)


@wait
def lock_with_timeout(world: World) -> None:
    while True:
        if world.lock.acquire(timeout=LONG):
            world.lock.release()


@wait
def rlock(world: World) -> None:
    with world.rlock:
        raise AssertionError("two have the reentrant lock")


@wait
def event(world: World) -> None:
    while True:
        world.event.wait()


@wait
def event_with_timeout(world: World) -> None:
    while True:
        world.event.wait(LONG)


@wait
def condition(world: World) -> None:
    while True:
        with world.condition:
            world.condition.wait()


@wait
def condition_of_rlock(world: World) -> None:
    while True:
        with world.rlock_condition, world.rlock_condition:
            world.rlock_condition.wait(LONG)


@wait
def semaphore(world: World) -> None:
    while True:
        world.semaphore.acquire()
        world.note("semaphore")


@wait
def bounded_semaphore(world: World) -> None:
    while True:
        with world.bounded:
            time.sleep(0)


@wait
def barrier(world: World) -> None:
    world.barrier.wait()


@wait
def queue_get(world: World) -> None:
    while True:
        world.empty.get()
        world.note("queue")


@wait
def queue_get_with_timeout(world: World) -> None:
    while True:
        world.empty.get(timeout=LONG)
        world.note("queue")


@wait
def queue_put(world: World) -> None:
    world.full.put(1)


@wait
def queue_join(world: World) -> None:
    world.unfinished.join()


@wait
def priority_queue_get(world: World) -> None:
    while True:
        world.priority.get()
        world.note("priority")


@wait
def simple_queue_get(world: World) -> None:
    while True:
        world.simple.get()
        world.note("simple")


@wait
def socket_recv(world: World) -> None:
    world.quiet.recv(1)


@wait
def socket_recv_that_is_woken(world: World) -> None:
    while True:
        for _ in world.written.recv(1):
            world.note("bytes")


@wait
def socket_send(world: World) -> None:
    world.clogged.sendall(bytes(1 << 20))


@wait
def socket_accept(world: World) -> None:
    world.listener.accept()


@costly
def socket_connect(world: World) -> None:
    # The queue of those who may be accepted is as short as can be: others wait for it.
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection(world.small_listener.getsockname()))


@costly
def socket_with_timeout(world: World) -> None:
    with world.other_end.dup() as copy:
        copy.settimeout(LONG)
        copy.recv(1)


@wait
def socket_file(world: World) -> None:
    with world.other_end.makefile("rb", buffering=0) as file:
        file.read(1)


@wait
def select_select(world: World) -> None:
    select.select([world.quiet], [], [])


@wait
def select_poll(world: World) -> None:
    poller = select.poll()
    poller.register(world.quiet, select.POLLIN)
    poller.poll()


@costly
def select_epoll(world: World) -> None:
    with select.epoll() as epoll:
        epoll.register(world.quiet, select.EPOLLIN)
        epoll.poll()


@costly
def selector(world: World) -> None:
    with selectors.DefaultSelector() as chosen:
        chosen.register(world.quiet, selectors.EVENT_READ)
        chosen.select()


@wait
def pipe_read(world: World) -> None:
    os.read(world.pipe_reader, 1)


@wait
def pipe_write(world: World) -> None:
    os.write(world.full_writer, b"x" * 5000)


@costly
def pipe_file(world: World) -> None:
    with open(os.dup(world.pipe_reader), "rb") as file:
        file.read(1)


@wait
def join(world: World) -> None:
    world.joined.join()


@wait
def start_and_join(world: World) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        over.set()


@wait
def shielded(world: World) -> None:
    with aevent.CancelScope(shield=True):
        world.release.wait()
    time.sleep(LONG)


@wait
def await_sleep(world: World) -> None:
    aevent.await_(aevent.sleep_forever())


@wait
def await_event(world: World) -> None:
    while True:
        aevent.await_(world.event.async_wait())  # type: ignore[attr-defined]


@wait
def await_what_calls_sync(world: World) -> None:
    async def nested() -> None:
        await aevent.checkpoint()
        world.never.wait()

    aevent.await_(nested())


@wait
def scopes_in_scopes(world: World) -> None:
    with aevent.move_on_after(LONG):
        with aevent.CancelScope():
            world.never.wait()


@costly
def child_process(world: World) -> None:
    world.held.child.wait()


@costly
def child_process_of_its_own(world: World) -> None:
    subprocess.run(["sleep", "100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@costly
def file_lock(world: World) -> None:
    with open(f"/proc/self/fd/{world.file.fileno()}", "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


@costly
def offloaded(world: World) -> None:
    real_select = select.select._aevent_orig  # type: ignore[attr-defined]
    aevent.offload(real_select, [world.quiet], [], [], 0.5)
    time.sleep(LONG)


@costly
def look_up(world: World) -> None:
    socket.getaddrinfo("localhost", 80)
    time.sleep(LONG)


@costly
def wait_for_signal(world: World) -> None:
    signal.sigwait({signal.SIGUSR2})


@wait
def tls_recv(world: World) -> None:
    world.tls_client.recv(1)


@wait
async def async_sleep(world: World) -> None:
    await aevent.sleep_forever()


@wait
async def async_sleep_until(world: World) -> None:
    await aevent.sleep(LONG)


@wait
async def async_lock(world: World) -> None:
    while True:
        async with world.lock:  # type: ignore[attr-defined]
            await aevent.sleep(0)


@wait
async def async_event(world: World) -> None:
    while True:
        await world.event.async_wait()  # type: ignore[attr-defined]


@wait
async def async_semaphore(world: World) -> None:
    while True:
        # Taken and noted without a checkpoint in between.
        await world.semaphore.async_acquire()  # type: ignore[attr-defined]
        world.note("semaphore")


@wait
async def async_condition(world: World) -> None:
    while True:
        async with world.condition:  # type: ignore[attr-defined]
            await world.condition.async_wait()  # type: ignore[attr-defined]


@wait
async def async_simple_queue(world: World) -> None:
    while True:
        await world.simple.async_get()  # type: ignore[attr-defined]
        world.note("simple")


@wait
async def async_group(world: World) -> None:
    async with aevent.TaskGroup() as group:
        group.spawn(aevent.sleep_forever)
        group.spawn(time.sleep, LONG)


@wait
async def async_that_calls_sync(world: World) -> None:
    world.never.wait()


@wait
async def async_that_calls_sync_that_is_woken(world: World) -> None:
    while True:
        world.semaphore.acquire()
        world.note("semaphore")


@wait
async def async_shielded(world: World) -> None:
    with aevent.CancelScope(shield=True):
        await world.release.async_wait()  # type: ignore[attr-defined]
    await aevent.sleep(LONG)


@wait
async def async_wait_readable(world: World) -> None:
    # A copy each: two may not wait for the same.
    with world.quiet.dup() as copy:
        await aevent.wait_readable(copy)


WAITS[-1] = (async_wait_readable, 100)


@wait
async def async_channel_receive(world: World) -> None:
    send, receive = aevent.open_memory_channel(0)
    with send, receive:
        await receive.receive()


@wait
async def async_channel_send(world: World) -> None:
    send, receive = aevent.open_memory_channel(0)
    with send, receive:
        await send.send(1)


@wait
async def async_limiter(world: World) -> None:
    async with world.limiter:
        raise AssertionError("nobody gives it back")


@wait
async def async_start(world: World) -> None:
    async with aevent.TaskGroup() as group:
        await group.start(never_started)


async def never_started(task_status: aevent.TaskStatus[None]) -> None:
    await aevent.sleep_forever()


@costly
async def async_thread(world: World) -> None:
    real_select = select.select._aevent_orig  # type: ignore[attr-defined]
    await aevent.to_thread.run_sync(real_select, [world.quiet], [], [], 0.5, abandon_on_cancel=True)
    await aevent.sleep(LONG)


@wait
def group_in_sync_code(world: World) -> None:
    with aevent.TaskGroup() as group:
        group.spawn(time.sleep, LONG)
        group.spawn(aevent.sleep_forever)


@wait
def body_of_async_context(world: World) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        await aevent.sleep_forever()

    with aevent.async_context(aevent.TaskGroup()) as group:
        group.spawn(time.sleep, LONG)
        for _ in aevent.async_iter(numbers()):
            aevent.await_(aevent.sleep(0))


# --- what a host has of its own; for asyncio and trio ---

HOST_WAITS: list[Wait] = []


def host_wait(fn: Wait) -> Wait:
    HOST_WAITS.append(fn)
    return fn


@host_wait
async def host_sleep(world: World) -> None:
    await anyio.sleep_forever()


@host_wait
async def host_event(world: World) -> None:
    await anyio.Event().wait()


@host_wait
async def host_channel(world: World) -> None:
    send, receive = anyio.create_memory_object_stream[int]()
    with send, receive:
        await receive.receive()


@host_wait
async def host_group(world: World) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)


@host_wait
def await_host_event(world: World) -> None:
    async def wait() -> None:
        await anyio.Event().wait()

    aevent.await_(wait())
