"""Signals of whole programs: what a handler raises comes out in main and is never lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

FreshOk = Callable[..., str]

HEAD = """
import sys
import aevent
backend, options = sys.argv[1], {}
if backend == "uvloop":
    import uvloop
    backend, options = "asyncio", {"loop_factory": uvloop.new_event_loop}
aevent.setup(backend)
import os, signal, threading, time
class Stop(Exception):
    pass
def stop(*_):
    raise Stop
def send(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)
"""


def test_an_async_main_ends_by_what_a_handler_raises(backend: str, fresh_ok: FreshOk) -> None:
    code = """
def worker():
    send()
    print("worker goes on")
    time.sleep(3600)

async def main():
    signal.signal(signal.SIGUSR1, stop)
    threading.Thread(target=worker, daemon=True).start()
    try:
        await aevent.sleep_forever()
    finally:
        print("finally")

try:
    aevent.run(main, **options)
except Stop:
    print("stopped")
"""
    lines = fresh_ok(HEAD + code, backend).splitlines()
    assert sorted(lines) == ["finally", "stopped", "worker goes on"]
    assert lines[-1] == "stopped"


def test_an_async_main_catches_what_a_handler_raises_in_it(backend: str, fresh_ok: FreshOk) -> None:
    code = """
async def main():
    signal.signal(signal.SIGUSR1, stop)
    await aevent.sleep(0)
    try:
        send()
    except Stop:
        print("caught")
    await aevent.sleep(0)

aevent.run(main, **options)
"""
    assert fresh_ok(HEAD + code, backend).split() == ["caught"]


def test_a_handler_that_raises_when_main_has_ended_ends_the_rest(
    backend: str, fresh_ok: FreshOk
) -> None:
    code = """
def worker():
    for _ in range(5):
        time.sleep(0.001)
    send()
    try:
        time.sleep(3600)
    finally:
        print("finally")

def main():
    signal.signal(signal.SIGUSR1, stop)
    threading.Thread(target=worker).start()

try:
    aevent.run(main, **options)
except Stop:
    print("stopped")
"""
    assert fresh_ok(HEAD + code, backend).split() == ["finally", "stopped"]


def test_the_child_of_a_fork_handles_its_own_signals(backend: str, fresh_ok: FreshOk) -> None:
    code = """
def main():
    calls = []
    signal.signal(signal.SIGUSR1, lambda *_: calls.append(os.getpid()))
    child = os.fork()
    if child == 0:
        killer = os.fork()
        if killer == 0:
            # More than once: nothing tells when it waits.
            while True:
                time.sleep(0.02)
                os.kill(os.getppid(), signal.SIGUSR1)
        signal.pause()
        os.kill(killer, signal.SIGKILL)
        os.waitpid(killer, 0)
        assert set(calls) == {os.getpid()}, calls
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, calls)

aevent.run(main, **options)
"""
    assert fresh_ok(HEAD + code, backend).splitlines() == ["7 []"]


def test_handlers_that_were_set_before_setup_are_the_main_tasks_too(
    backend: str, fresh_ok: FreshOk
) -> None:
    code = """
import signal
class Stop(Exception):
    pass
def stop(*_):
    raise Stop
signal.signal(signal.SIGUSR1, stop)
"""
    rest = """
assert signal.getsignal(signal.SIGUSR1) is stop
import aevent

def main():
    threading.Thread(target=send).start()
    try:
        time.sleep(3600)
    except Stop:
        print("stopped")

aevent.run(main, **options)
try:
    send()
except Stop:
    print("stopped again")
"""
    head = HEAD.replace("class Stop(Exception):\n    pass\ndef stop(*_):\n    raise Stop\n", "")
    assert fresh_ok(code + head + rest, backend).splitlines() == ["stopped", "stopped again"]


def test_an_interrupt_by_a_thread_that_ends_is_raised_in_the_join(
    backend: str, fresh_ok: FreshOk
) -> None:
    code = """
import _thread

def main():
    for send in (_thread.interrupt_main, lambda: os.kill(os.getpid(), signal.SIGINT)):
        thread = threading.Thread(target=send)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            print("in the join")

aevent.run(main, **options)
"""
    assert fresh_ok(HEAD + code, backend).splitlines() == ["in the join"] * 2


def test_an_interrupt_while_a_group_waits_comes_out_of_run_plainly(
    backend: str, fresh_ok: FreshOk
) -> None:
    code = """
def child():
    try:
        send(signal.SIGINT)
        time.sleep(3600)
    finally:
        print("finally")

async def main():
    async with aevent.TaskGroup() as group:
        group.spawn(child)

try:
    aevent.run(main, **options)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert fresh_ok(HEAD + code, backend).split() == ["finally", "interrupted"]


def test_a_sigint_handler_of_the_programs_host_in_the_main_task(
    backend: str, fresh_ok: FreshOk
) -> None:
    """`asyncio.run` in the main task cancels its main coroutine, as it does elsewhere."""
    code = """
import asyncio

async def body():
    threading.Thread(target=send, args=(signal.SIGINT,)).start()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("cancelled")
        raise

def main():
    try:
        asyncio.run(body())
    except KeyboardInterrupt:
        print("interrupted")

aevent.run(main, **options)
"""
    expected = ["cancelled", "interrupted"]
    assert fresh_ok(HEAD + code, backend).split() == expected
