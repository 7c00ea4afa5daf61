"""`logging`: its locks, handlers and queues."""

from __future__ import annotations

import io
import logging
import logging.handlers
import queue
import threading
import time
from typing import Any

from tests.monkey.heartbeat import TICKS, heartbeat

LOG = logging.getLogger("aevent.tests")
LOG.propagate = False


class Slow(logging.StreamHandler):  # generic since 3.11 only
    """A handler whose stream parks in the middle of a record."""

    inside = most = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.001)
        super().emit(record)
        self.inside -= 1


def test_a_handler_is_used_by_one_green_thread_at_a_time() -> None:
    out = io.StringIO()
    handler = Slow(out)
    handler.setFormatter(logging.Formatter("%(threadName)s %(thread)d %(message)s"))
    LOG.addHandler(handler)
    idents: dict[str, int] = {}

    def work() -> None:
        idents[threading.current_thread().name] = threading.get_ident()
        LOG.warning("hello")

    with heartbeat() as heart:
        threads = [threading.Thread(target=work, name=f"worker{n}") for n in range(TICKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert heart.ticks
    LOG.removeHandler(handler)
    assert handler.most == 1
    lines = [f"{name} {ident} hello" for name, ident in idents.items()]
    assert sorted(out.getvalue().splitlines()) == sorted(lines)


def test_a_listener_takes_records_from_a_queue() -> None:
    records: queue.Queue[Any] = queue.Queue()
    out = io.StringIO()
    listener = logging.handlers.QueueListener(records, Slow(out))
    listener.start()
    handler = logging.handlers.QueueHandler(records)
    LOG.addHandler(handler)
    with heartbeat() as heart:
        for number in range(TICKS):
            LOG.error("%d", number)
        listener.stop()
        assert heart.ticks
    LOG.removeHandler(handler)
    assert out.getvalue().split() == [str(number) for number in range(TICKS)]


def test_records_go_over_a_socket() -> None:
    import socketserver

    got: list[bytes] = []
    came = threading.Event()

    class Receive(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            got.append(self.request.recv(10_000))
            came.set()

    with socketserver.TCPServer(("127.0.0.1", 0), Receive) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.001})
        thread.start()
        handler = logging.handlers.SocketHandler("127.0.0.1", server.server_address[1])
        LOG.addHandler(handler)
        LOG.error("hello")
        assert came.wait(30)
        LOG.removeHandler(handler)
        handler.close()
        server.shutdown()
        thread.join()
    assert b"hello" in got[0]


def test_a_configuration_is_listened_for() -> None:
    import logging.config
    import socket
    import struct

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server: Any = logging.config.listen(port, verify=lambda configuration: None)
    server.start()
    server.ready.wait(30)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(struct.pack(">L", 2) + b"{}")
        assert client.recv(1) == b""
    logging.config.stopListening()
    server.join()


def test_logging_that_was_imported_first(fresh_ok: Any, backend: str) -> None:
    script = """
import io, logging, sys, tempfile, functools, concurrent.futures, multiprocessing.util
out = io.StringIO()

class Slow(logging.StreamHandler):
    inside = most = 0
    def emit(self, record):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.001)
        super().emit(record)
        self.inside -= 1

logging.basicConfig(handlers=[Slow(out)])
import aevent
aevent.setup(sys.argv[1])
import threading, time

def main():
    threads = [threading.Thread(target=logging.error, args=("hello",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The lock of the module, too: two threads that change handlers while one of them waits.
    def change():
        with logging._lock:
            taken.append(1)
            assert len(taken) == 1
            time.sleep(0.001)
            taken.pop()
    taken = []
    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

aevent.run(main)
assert out.getvalue() == "ERROR:root:hello\\n" * 5
assert logging.root.handlers[0].most == 1
"""
    fresh_ok(script, backend)


def test_a_child_of_a_fork_can_log_while_another_thread_did(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import logging, os, threading, time

class Slow(logging.StreamHandler):
    def emit(self, record):
        time.sleep(0.01)
        super().emit(record)

logging.basicConfig(handlers=[Slow(sys.stdout)])

def main():
    thread = threading.Thread(target=logging.error, args=("parent",))
    thread.start()
    time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        logging.error("child")
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()

aevent.run(main)
"""
    assert sorted(fresh_ok(script, backend).splitlines()) == [
        "ERROR:root:child",
        "ERROR:root:parent",
    ]


HOST_LOGS = """
import sys
import aevent
aevent.setup(sys.argv[1])
import anyio, logging, threading, time

class Handler(logging.Handler):
    def emit(self, record):
        if record.msg == "green":
            writing.set()
            time.sleep(0.01)
        print(record.msg)

writing = threading.Event()
logging.getLogger().addHandler(Handler())

async def main():
    async with aevent.runner(), aevent.TaskGroup() as group:
        group.spawn(logging.warning, "green")
        while not writing.is_set():
            await anyio.sleep(0)
        logging.warning("host")

anyio.run(main, backend=sys.argv[1])
"""


def test_a_hosts_task_logs_while_a_green_thread_does(fresh_ok: Any, backend: str) -> None:
    """It has no portal and cannot park: the green thread, in the same OS thread, is let go on."""
    if backend != "native":
        assert fresh_ok(HOST_LOGS, backend) == "green\nhost\n"


HOST_IN_DEADLOCK = """
import sys
import aevent
aevent.setup(sys.argv[1])
import anyio, threading

lock = threading.Lock()

async def main():
    go = anyio.Event()
    def green():
        with lock:
            aevent.await_(go.wait())
    async with aevent.runner(), aevent.TaskGroup() as group:
        group.spawn(green)
        while not lock.locked():
            await anyio.sleep(0)
        try:
            lock.acquire()
        except RuntimeError as error:
            print("could never succeed" in str(error))
        go.set()

anyio.run(main, backend=sys.argv[1])
"""


def test_a_hosts_task_is_told_that_it_would_wait_for_ever(fresh_ok: Any, backend: str) -> None:
    """Who holds the lock waits for the host."""
    if backend != "native":
        assert fresh_ok(HOST_IN_DEADLOCK, backend) == "True\n"
