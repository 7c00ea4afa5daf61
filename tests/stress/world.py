"""What the tasks of the storm wait for, and what wakes some of them in the middle of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import random
import socket
import ssl
import subprocess
import tempfile
import threading

import aevent


class Held:
    """What is made once and used by all rounds: what costs much, and changes by no wait."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(
            ["sleep", "100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.certificates = tempfile.TemporaryDirectory()
        self.client_context, self.server_context = self._make_contexts()

    def _make_contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        import trustme  # slow to import, and needed here only

        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(client)
        return client, server

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.certificates.cleanup()


class World:
    """What the tasks of one round wait for."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.handed: dict[str, int] = {}
        self.got: dict[str, int] = {}
        self._closing = contextlib.ExitStack()
        self.never = threading.Event()
        self.release = threading.Event()
        self.event = threading.Event()
        self.condition = threading.Condition()
        self.rlock_condition = threading.Condition(threading.RLock())
        self.semaphore = threading.Semaphore(0)
        self.bounded = threading.BoundedSemaphore(1)
        self.bounded.acquire()
        self.lock = threading.Lock()
        self.lock.acquire()
        self.rlock = threading.RLock()
        self.limiter = aevent.CapacityLimiter(1)
        self.limiter.acquire_on_behalf_of_nowait(self)
        self.barrier = threading.Barrier(1 << 30)
        self.empty: queue.Queue[int] = queue.Queue()
        self.full: queue.Queue[int] = queue.Queue(1)
        self.full.put(0)
        self.priority: queue.PriorityQueue[int] = queue.PriorityQueue()
        self.simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.unfinished: queue.Queue[int] = queue.Queue()
        self.unfinished.put(0)
        self.quiet, self.other_end = self._pair()
        self.read, self.written = self._pair()
        self.clogged, self.clogged_end = self._pair()
        self.clogged.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.clogged.send(bytes(1 << 20))
        self.clogged.setblocking(True)
        self.listener = self._listener(5)
        self.small_listener = self._listener(0)
        self.pipe_reader, self.pipe_writer = self._pipe()
        self.full_reader, self.full_writer = self._pipe()
        os.set_blocking(self.full_writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.full_writer, bytes(1 << 16))
        os.set_blocking(self.full_writer, True)
        self.file = self._closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed below
        # Of a description of its own, so that it is in the way of the others' lock.
        again = open(f"/proc/self/fd/{self.file.fileno()}", "rb+")  # noqa: SIM115 - as above
        self.lock_holder = self._closing.enter_context(again)
        fcntl.flock(self.lock_holder, fcntl.LOCK_EX)
        self.joined = threading.Thread(target=self.never.wait, daemon=True)
        self.joined.start()
        self.tls_client, self.tls_server = self._tls_pair()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            self._closing.callback(end.close)
        return pair

    def _pipe(self) -> tuple[int, int]:
        pipe = os.pipe()
        for end in pipe:
            self._closing.callback(os.close, end)
        return pipe

    def _listener(self, backlog: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._closing.callback(listener.close)
        return listener

    def _tls_pair(self) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        ends = socket.socketpair()
        servers: list[ssl.SSLSocket] = []

        def accept() -> None:
            servers.append(self.held.server_context.wrap_socket(ends[1], server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        client = self.held.client_context.wrap_socket(ends[0], server_hostname="localhost")
        thread.join()
        for end in (client, servers[0]):
            self._closing.callback(end.close)
        return client, servers[0]

    def note(self, what: str) -> None:
        """A wait has given its task something that a poke has handed out."""
        self.got[what] = self.got.get(what, 0) + 1

    def hand(self, what: str) -> None:
        self.handed[what] = self.handed.get(what, 0) + 1

    def end(self) -> None:
        """After the round: nobody waits any more."""
        self.never.set()
        self.joined.join()
        self.check()
        self._closing.close()

    def check(self) -> None:
        """What was handed out arrived or is still there."""
        left = {
            "semaphore": 0,
            "queue": self.empty.qsize(),
            "priority": self.priority.qsize(),
            "simple": self.simple.qsize(),
            "bytes": 0,
        }
        while self.semaphore.acquire(blocking=False):
            left["semaphore"] += 1
        self.written.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                left["bytes"] += len(self.written.recv(1000))
        for what, count in left.items():
            handed, got = self.handed.get(what, 0), self.got.get(what, 0)
            assert handed == got + count, f"{what}: {handed} handed out, {got} got, {count} left"
        assert self.lock.locked(), "somebody has released the lock of another"
        owned = self.rlock._is_owned()  # type: ignore[attr-defined]
        assert owned, "the reentrant lock is not the main task's any more"


async def poke(world: World, choose: random.Random) -> None:
    await choose.choice(POKES)(world)


async def poke_semaphore(world: World) -> None:
    world.hand("semaphore")
    world.semaphore.release()


async def poke_queues(world: World) -> None:
    world.hand("queue")
    world.empty.put(1)
    world.hand("priority")
    world.priority.put(1)
    world.hand("simple")
    world.simple.put(1)


async def poke_events(world: World) -> None:
    world.event.set()
    world.event.clear()


async def poke_conditions(world: World) -> None:
    for condition in (world.condition, world.rlock_condition):
        # Free most of the time: who waits for a condition holds its lock on the way in and out.
        if condition.acquire(blocking=False):
            condition.notify(3)
            condition.release()


async def poke_locks(world: World) -> None:
    world.lock.release()
    await world.lock.async_acquire()  # type: ignore[attr-defined]


async def poke_socket(world: World) -> None:
    world.hand("bytes")
    world.read.send(b"x")


async def poke_bounded(world: World) -> None:
    world.bounded.release()
    await world.bounded.async_acquire()  # type: ignore[attr-defined]


POKES = [
    poke_semaphore,
    poke_queues,
    poke_events,
    poke_conditions,
    poke_locks,
    poke_socket,
    poke_bounded,
]
