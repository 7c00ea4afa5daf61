"""psycopg2 waits by its callback: in tasks the task parks, elsewhere the thread blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# What psycopg2 has for a callback, and a connection that needs a byte to get on.
FAKE = """
POLL_OK, POLL_READ, POLL_WRITE = 0, 1, 2
_callback = None

def set_wait_callback(callback):
    global _callback
    _callback = callback

def get_wait_callback():
    return _callback

class Connection:
    OperationalError = RuntimeError

    def __init__(self, sock):
        self.sock = sock
        self.states = [POLL_WRITE, POLL_READ]
        self.cancelled = False

    def fileno(self):
        return self.sock.fileno()

    def poll(self):
        if self.states:
            return self.states.pop(0)
        return POLL_OK

    def cancel(self):
        self.cancelled = True
        self.states = []

    def execute(self):
        _callback(self)
"""

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
if "early" in sys.argv:
    import psycopg2.extensions
import aevent
aevent.setup(sys.argv[1])
import io, socket, threading
from psycopg2 import extensions
assert extensions.get_wait_callback() is not None
assert aevent.doctor(io.StringIO()).drivers == ["psycopg2"]

def execute():
    left, right = socket.socketpair()
    with left, right:
        connection = extensions.Connection(left)
        # In a task, this one has its turn only if the connection's wait parks.
        later = threading.Thread(target=right.send, args=(b"x",))
        later.start()
        connection.execute()
        later.join()
        assert connection.poll() == extensions.POLL_OK

def main():
    execute()
    # In a real thread and outside tasks it blocks.
    real = threading.Thread._aevent_orig(target=execute)
    real.start()
    real.join()
    # Cancellation reaches it.
    left, right = socket.socketpair()
    with left, right, aevent.move_on_after(0.01) as scope:
        extensions.Connection(left).execute()
    assert scope.cancelled_caught
aevent.run(main)
execute()

class Interrupted(extensions.Connection):
    def poll(self):
        if not self.cancelled:
            raise KeyboardInterrupt
        return super().poll()
interrupted = Interrupted(None)
interrupted.execute()
assert interrupted.cancelled
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    package = tmp_path / "packages" / "psycopg2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "extensions.py").write_text(FAKE)
    return str(package.parent)


@pytest.mark.parametrize("when", ["early", "late"])
def test_waits_park_in_tasks_and_block_elsewhere(
    fresh_ok: Any, backend: str, folder: str, when: str
) -> None:
    fresh_ok(SCRIPT, backend, folder, when)


def test_a_callback_of_the_programs_own_is_left_alone(
    fresh_ok: Any, backend: str, folder: str
) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[2])
from psycopg2 import extensions
extensions.set_wait_callback(print)
import aevent
aevent.setup(sys.argv[1])
assert extensions.get_wait_callback() is print
"""
    fresh_ok(script, backend, folder)


def test_it_can_be_excluded(fresh_ok: Any, backend: str, folder: str) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[2])
import aevent
aevent.setup(sys.argv[1], exclude=["psycopg2"])
from psycopg2 import extensions
assert extensions.get_wait_callback() is None
"""
    fresh_ok(script, backend, folder)


SILENT = """
import sys
import aevent
aevent.setup(sys.argv[1])
import socket, threading
import {driver} as driver

def main():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        def answer_nothing():
            # Has its turn only if the driver's wait parks.
            with server.accept()[0] as peer:
                while peer.recv(100):
                    scope.cancel()
        with aevent.CancelScope() as scope:
            thread = threading.Thread(target=answer_nothing)
            thread.start()
            driver.connect(f"host=127.0.0.1 port={{port}} user=nobody dbname=nothing")
        assert scope.cancelled_caught
        thread.join()
aevent.run(main)
"""


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_connecting_to_a_silent_server_parks_and_is_cancelled(
    fresh_ok: Any, backend: str, driver: str
) -> None:
    try:
        __import__(driver)
    except ImportError:
        pytest.skip(f"{driver} is not installed")
    fresh_ok(SILENT.format(driver=driver), backend)
