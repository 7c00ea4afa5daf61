"""psycopg 3 waits in C, but in tasks by `poll`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FAKE = """
import select

def wait_c(generator, fileno, interval=0.0):
    "Waits in C."
    return "waited in C"

def wait_poll(generator, fileno, interval=0.0):
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    poll.poll()
    return "waited by poll"

wait = wait_c
"""

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
if "early" in sys.argv:
    import psycopg.waiting
import aevent
aevent.setup(sys.argv[1])
import socket, threading, time
from psycopg import connection, waiting
assert waiting.wait.__name__ == "wait_c" or waiting.wait.__doc__ == "Waits in C."

def main():
    left, right = socket.socketpair()
    with left, right:
        ticks = []
        def answer():
            for _ in range(10):
                ticks.append(time.sleep(0.001))
            right.send(b"x")
        thread = threading.Thread(target=answer)
        thread.start()
        assert waiting.wait(None, left.fileno(), interval=1) == "waited by poll"
        assert len(ticks) == 10
        thread.join()
        with aevent.native():
            assert waiting.wait(None, left.fileno()) == "waited in C"
    assert aevent.Cancelled in connection._INTERRUPTED
    assert KeyboardInterrupt in connection._INTERRUPTED
aevent.run(main)
assert waiting.wait(None, 0) == "waited in C"
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_waits_by_poll_in_tasks_and_in_c_elsewhere(
    fresh_ok: Any, backend: str, tmp_path: Path, when: str
) -> None:
    package = tmp_path / "packages" / "psycopg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "waiting.py").write_text(FAKE)
    (package / "connection.py").write_text("_INTERRUPTED = (KeyboardInterrupt,)\n")
    fresh_ok(SCRIPT, backend, str(package.parent), when)


def test_its_private_names_are_there() -> None:
    connection = pytest.importorskip("psycopg.connection")
    assert isinstance(connection._INTERRUPTED, tuple)
