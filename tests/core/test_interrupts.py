"""SIGINT raises KeyboardInterrupt in main, wherever it waits, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]
Communicate = Callable[[subprocess.Popen[str]], tuple[str, str]]
Interrupt = Callable[..., list[str]]

BACKENDS = pytest.mark.parametrize("backend", ["native", "asyncio", "uvloop", "trio"])

HEAD = """
import sys
import aevent
backend = sys.argv[1]
options = {}
if backend == "uvloop":
    import uvloop
    backend, options = "asyncio", {"loop_factory": uvloop.new_event_loop}
aevent.setup(backend)
import queue, socket, threading, time
if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

def ready():
    print("ready", flush=True)

left, right = socket.socketpair()

def waits():
    held = threading.Lock()
    held.acquire()
    rheld = threading.RLock()
    taken = threading.Event()
    other = threading.Thread(
        target=lambda: (rheld.acquire(), taken.set(), time.sleep(3600)), daemon=True
    )
    other.start()
    taken.wait()
    return {
        "sleep": lambda: time.sleep(3600),
        "recv": lambda: left.recv(1),
        "lock": held.acquire,
        "lock with timeout": lambda: held.acquire(timeout=3600),
        "rlock": rheld.acquire,
        "event": threading.Event().wait,
        "queue": queue.Queue().get,
        "join": other.join,
        "await": lambda: aevent.await_(aevent.sleep_forever()),
        "offload": lambda: aevent.offload(threading.Event().wait, 3600),
    }
"""

TAIL = """
try:
    aevent.run(main, **options)
except BaseException as error:
    print(type(error).__name__, flush=True)
else:
    print("returned", flush=True)
left.close()
right.close()
"""


@pytest.fixture
def interrupt(start_fresh: Start, communicate: Communicate) -> Interrupt:
    """Runs a script, interrupts it when it is ready, and returns the lines it printed since."""

    def run(body: str, *args: str) -> list[str]:
        process = start_fresh(HEAD + body + TAIL, *args)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != "ready\n":
            out, err = communicate(process)
            pytest.fail(f"{line}{out}\n{err}")
        # "ready" was printed just before it waits: there is nothing that could tell that it does.
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = communicate(process)
        assert (err, process.returncode) == ("", 0), out
        return out.splitlines()

    return run


@BACKENDS
@pytest.mark.parametrize(
    "wait",
    [
        "sleep",
        "recv",
        "lock",
        "lock with timeout",
        "rlock",
        "event",
        "queue",
        "join",
        "await",
        "offload",
    ],
)
def test_sync_main_parked_in(interrupt: Interrupt, backend: str, wait: str) -> None:
    lines = interrupt(
        """
def main():
    call = waits()[sys.argv[2]]
    try:
        ready()
        call()
    except KeyboardInterrupt:
        print("raised in main")
        raise
    finally:
        print("finally")
""",
        backend,
        wait,
    )
    assert lines == ["raised in main", "finally", "KeyboardInterrupt"]


@BACKENDS
@pytest.mark.parametrize("wait", ["sleep", "lock", "recv", "aevent.sleep", "async_wait"])
def test_async_main_parked_in(interrupt: Interrupt, backend: str, wait: str) -> None:
    lines = interrupt(
        """
async def main():
    wait = sys.argv[2]
    try:
        if wait == "aevent.sleep":
            ready()
            await aevent.sleep_forever()
        elif wait == "async_wait":
            ready()
            await aevent.Event().async_wait()
        else:
            call = waits()[wait]
            ready()
            call()
    finally:
        print("finally")
""",
        backend,
        wait,
    )
    assert lines == ["finally", "KeyboardInterrupt"]


@BACKENDS
def test_async_main_that_leaves_a_group_waits_for_the_children(
    interrupt: Interrupt, backend: str
) -> None:
    lines = interrupt(
        """
waiting = []

def child(name):
    try:
        waiting.append(name)
        if len(waiting) == 2:
            ready()
        time.sleep(3600)
    finally:
        print("finally of", name)

async def async_child():
    child("async child")

async def main():
    try:
        async with aevent.TaskGroup() as group:
            group.spawn(child, "green child")
            group.spawn(async_child)
    except BaseExceptionGroup as group:
        # As trio and native do it. asyncio's own runner cancels main instead.
        (error,) = group.exceptions
        raise error
    finally:
        print("finally of main")
""",
        backend,
    )
    assert sorted(lines[:2]) == ["finally of async child", "finally of green child"]
    assert lines[2:] == ["finally of main", "KeyboardInterrupt"]


@BACKENDS
def test_it_lands_in_main_while_a_thread_computes(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
stop = False

def compute():
    try:
        ready()
        while not stop:
            time.sleep(0)
            end = time.perf_counter() + 0.02
            while time.perf_counter() < end:
                pass
    except BaseException as error:
        print("in the worker:", type(error).__name__)
        raise

def main():
    global stop
    try:
        threading.Thread(target=compute).start()
        time.sleep(3600)
    finally:
        stop = True
        print("finally of main")
""",
        backend,
    )
    assert lines == ["finally of main", "KeyboardInterrupt"]


@BACKENDS
def test_it_lands_in_main_that_computes_itself(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
def main():
    try:
        ready()
        while True:
            pass
    finally:
        print("finally of main")
""",
        backend,
    )
    assert lines == ["finally of main", "KeyboardInterrupt"]


@BACKENDS
def test_main_may_catch_it_and_go_on(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
def main():
    try:
        ready()
        time.sleep(3600)
    except KeyboardInterrupt:
        print("caught")
    time.sleep(0.001)
    right.send(b"x")
    print(left.recv(1).decode())
""",
        backend,
    )
    assert lines == ["caught", "x", "returned"]


@BACKENDS
def test_a_handler_of_the_program_is_left_alone(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
import signal

def main():
    got = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: got.set())
    ready()
    got.wait()
    print("handled")
""",
        backend,
    )
    assert lines == ["handled", "returned"]


@BACKENDS
def test_a_handler_that_raises_does_so_in_main_also_in_a_wait(
    interrupt: Interrupt, backend: str
) -> None:
    lines = interrupt(
        """
import signal

class Stop(Exception):
    pass

def stop(*_):
    raise Stop

def main():
    signal.signal(signal.SIGINT, stop)
    try:
        ready()
        time.sleep(3600)
    except Stop:
        print("stopped")
""",
        backend,
    )
    assert lines == ["stopped", "returned"]


@BACKENDS
def test_daemons_are_cancelled_after_it(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
def worker():
    try:
        time.sleep(3600)
    finally:
        print("finally of the daemon")

def main():
    threading.Thread(target=worker, daemon=True).start()
    time.sleep(0.001)
    ready()
    time.sleep(3600)
""",
        backend,
    )
    assert lines == ["finally of the daemon", "KeyboardInterrupt"]


@BACKENDS
def test_the_handler_is_the_default_again_after_run(interrupt: Interrupt, backend: str) -> None:
    lines = interrupt(
        """
import signal

def main():
    ready()
    try:
        time.sleep(3600)
    except KeyboardInterrupt:
        pass

import atexit
atexit.register(lambda: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler))
""",
        backend,
    )
    assert lines == ["returned", "True"]
