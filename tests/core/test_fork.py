"""`os.fork()`: the child has the forking thread only, and the parent goes on unaffected."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

Fresh = Callable[..., str]

BACKENDS = pytest.mark.parametrize("backend", ["native", "asyncio", "uvloop", "trio"])

HEAD = """
import os, sys, warnings
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
import aevent
backend = sys.argv[1]
options = {}
if backend == "uvloop":
    import uvloop
    backend, options = "asyncio", {"loop_factory": uvloop.new_event_loop}
aevent.setup(backend)
import queue, socket, threading, time

def log(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def in_child(fn):
    '''Forks, runs fn in the child, and waits for the child in the parent.'''
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        except BaseException as error:
            log("child:", repr(error))
        finally:
            os._exit(status)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.001)
    log("child ended with", os.waitstatus_to_exitcode(status))
"""
TAIL = """
aevent.run(main, **options)
"""


def run_script(fresh_ok: Fresh, body: str, backend: str) -> list[str]:
    return fresh_ok(HEAD + body + TAIL, backend).splitlines()


FORKERS = {
    "main": "def main():\n    program()\n",
    "async main": "async def main():\n    program()\n",
    "thread": """
def main():
    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
""",
    "green child": """
async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(program)
""",
}
BY_ALL = pytest.mark.parametrize("forker", list(FORKERS))


@BACKENDS
@BY_ALL
def test_only_the_forking_thread_lives_in_the_child(
    fresh_ok: Fresh, backend: str, forker: str
) -> None:
    lines = run_script(
        fresh_ok,
        """
pid = os.getpid()

def ticker():
    for _ in range(20):
        time.sleep(0.001)
        if os.getpid() != pid:
            log("ticks in the child")
    log("ticked")

def program():
    thread = threading.Thread(target=ticker)
    thread.start()
    time.sleep(0.002)

    def child():
        time.sleep(0.05)
        assert not thread.is_alive()
        log("child")

    in_child(child)
    thread.join()
    log("parent")
"""
        + FORKERS[forker],
        backend,
    )
    assert sorted(lines) == ["child", "child ended with 0", "parent", "ticked"]


@BACKENDS
@BY_ALL
def test_the_child_can_start_threads_and_wait_for_everything(
    fresh_ok: Fresh, backend: str, forker: str
) -> None:
    lines = run_script(
        fresh_ok,
        """
def program():
    def child():
        left, right = socket.socketpair()
        items = queue.Queue()

        def echo():
            right.sendall(right.recv(10))
            items.put("item")

        with left, right:
            thread = threading.Thread(target=echo)
            thread.start()
            left.sendall(b"hello")
            assert items.get() == "item"
            thread.join()
            assert left.recv(10) == b"hello"
        log(threading.Event().wait(0.001))

    in_child(child)
    time.sleep(0.001)
    log("parent")
"""
        + FORKERS[forker],
        backend,
    )
    assert lines == ["False", "child ended with 0", "parent"]


@BACKENDS
def test_locks_with_waiters_of_the_parent_work_in_the_child(fresh_ok: Fresh, backend: str) -> None:
    lines = run_script(
        fresh_ok,
        """
def main():
    lock, event, condition = threading.Lock(), threading.Event(), threading.Condition()
    lock.acquire()

    def wait_for_lock():
        with lock:
            log("lock", os.getpid() == pid)

    def wait_for_event():
        event.wait()
        log("event", os.getpid() == pid)

    pid = os.getpid()
    threads = [threading.Thread(target=fn) for fn in (wait_for_lock, wait_for_event)]
    for thread in threads:
        thread.start()
    time.sleep(0.001)

    def child():
        # The waiters are the parent's: here nobody waits.
        lock.release()
        assert lock.acquire(timeout=30)
        event.set()
        assert event.wait(30)
        with condition:
            condition.notify_all()
        time.sleep(0.005)
        log("child")

    in_child(child)
    event.set()
    lock.release()
    for thread in threads:
        thread.join()
"""
        "",
        backend,
    )
    assert lines[:2] == ["child", "child ended with 0"]
    assert sorted(lines[2:]) == ["event True", "lock True"]


@BACKENDS
def test_the_parent_goes_on_when_its_child_has_used_the_loop(fresh_ok: Fresh, backend: str) -> None:
    lines = run_script(
        fresh_ok,
        """
def main():
    left, right = socket.socketpair()
    got = []
    thread = threading.Thread(target=lambda: got.append(left.recv(10)))
    thread.start()
    time.sleep(0.001)

    def child():
        # Closing what the parent waits for, in the child only.
        left.close()
        a, b = socket.socketpair()
        threading.Thread(target=a.send, args=(b"x",)).start()
        log(b.recv(1))
        a.close(), b.close()

    in_child(child)
    time.sleep(0.005)
    right.send(b"still there")
    thread.join()
    log(got)
    left.close(), right.close()
""",
        backend,
    )
    assert lines == ["b'x'", "child ended with 0", "[b'still ther']"]


@BACKENDS
def test_a_child_that_returns_from_run_ends_cleanly(fresh_ok: Fresh, backend: str) -> None:
    if backend in ("asyncio", "uvloop"):
        pytest.skip("asyncio's loop does not survive a fork: its own selector is the parent's")
    lines = run_script(
        fresh_ok,
        """
def main():
    pid = os.fork()
    if pid:
        while not os.waitpid(pid, os.WNOHANG)[0]:
            time.sleep(0.001)
    else:
        time.sleep(0.001)
    log("parent" if pid else "child")
""",
        backend,
    )
    assert lines == ["child", "parent"]


def test_fork_in_an_os_thread_beside_a_running_loop(fresh_ok: Fresh) -> None:
    lines = run_script(
        fresh_ok,
        """
def fork():
    pid = os.fork()
    if pid == 0:
        try:
            # A fresh loop, in what is now the only thread.
            aevent.run(lambda: (time.sleep(0.001), log("child")), backend="native")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def main():
    thread = threading.Thread._aevent_orig(target=fork)
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
    log("parent")
""",
        "native",
    )
    assert lines == ["child", "parent"]
