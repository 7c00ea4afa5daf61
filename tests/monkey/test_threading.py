"""`threading`."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import aevent


class Early(threading.Thread):
    """A class of before `setup`, as far as that is concerned: it looks nothing up later."""

    def run(self) -> None:
        self.seen = threading.current_thread(), threading.get_native_id()


def run_in_thread(fn: Callable[[], object], **options: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, **options)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return thread


def test_a_thread_is_green_and_shares_the_system_thread() -> None:
    seen: list[tuple[threading.Thread, int, int]] = []

    def body() -> None:
        seen.append((threading.current_thread(), threading.get_ident(), threading.get_native_id()))

    thread = run_in_thread(body)
    assert seen == [(thread, thread.ident, threading.get_native_id())]
    assert thread.ident != threading.get_ident()
    assert thread.native_id == threading.get_native_id()


def test_subclasses_are_green() -> None:
    thread = Early()
    thread.start()
    thread.join()
    assert thread.seen == (thread, threading.get_native_id())


def test_the_original_is_a_real_thread() -> None:
    seen: list[int] = []
    kind = threading.Thread._aevent_orig  # type: ignore[attr-defined]
    thread = kind(target=lambda: seen.append(threading.get_native_id()))
    assert isinstance(thread, threading.Thread)
    thread.start()
    # From a task: the wait must not stop the others.
    thread.join(30)
    assert not thread.is_alive()
    assert seen == [thread.native_id]
    assert thread.native_id != threading.get_native_id()


def test_real_threads_and_green_ones_join_each_other() -> None:
    real = threading.Thread._aevent_orig  # type: ignore[attr-defined]
    release = threading.Event()
    green = threading.Thread(target=release.wait)
    green.start()
    joined: list[bool] = []
    tried = threading.Event()

    def join() -> None:
        green.join(0.01)
        joined.append(green.is_alive())
        tried.set()
        green.join(30)
        joined.append(green.is_alive())

    joiner = real(target=join)
    joiner.start()
    joiner.join(0.001)
    assert joiner.is_alive()
    assert tried.wait(30)
    release.set()
    joiner.join(30)
    assert joined == [True, False]


def test_states_of_a_thread() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="worker", daemon=True)
    assert (thread.ident, thread.is_alive()) == (None, False)
    assert repr(thread) == "<Thread(worker, initial daemon)>"
    with pytest.raises(RuntimeError, match="cannot join thread before it is started"):
        thread.join()
    thread.start()
    assert thread.is_alive()
    assert repr(thread) == f"<Thread(worker, started daemon {thread.ident})>"
    assert thread in threading.enumerate()
    count = threading.active_count()
    with pytest.raises(RuntimeError, match="threads can only be started once"):
        thread.start()
    with pytest.raises(RuntimeError, match="cannot set daemon status of active thread"):
        thread.daemon = False
    thread.join(0.001)
    assert thread.is_alive()
    thread.join(-1)
    release.set()
    thread.join()
    assert not thread.is_alive()
    assert repr(thread) == f"<Thread(worker, stopped daemon {thread.ident})>"
    assert thread not in threading.enumerate()
    assert threading.active_count() == count - 1
    thread.name = "other"
    assert thread.name == "other"


def test_a_thread_inherits_daemonhood() -> None:
    seen: list[bool] = []
    run_in_thread(lambda: seen.append(threading.Thread().daemon), daemon=True)
    run_in_thread(lambda: seen.append(threading.Thread().daemon), daemon=False)
    assert seen == [True, False]


def test_a_class_that_forgets_to_initialise_is_told() -> None:
    class Forgetful(threading.Thread):
        def __init__(self) -> None:
            pass

    with pytest.raises(RuntimeError, match=re.escape("thread.__init__() not called")):
        Forgetful().start()
    with pytest.raises(RuntimeError, match=re.escape("Thread.__init__() not called")):
        Forgetful().join()


def test_a_thread_cannot_join_itself() -> None:
    messages: list[str] = []

    def body() -> None:
        try:
            threading.current_thread().join()
        except RuntimeError as error:
            messages.append(str(error))

    run_in_thread(body)
    body()
    assert messages == ["cannot join current thread"] * 2


def test_the_main_task_is_the_main_thread() -> None:
    assert threading.current_thread() is threading.main_thread()
    assert threading.get_ident() == threading.main_thread().ident
    seen: list[threading.Thread] = []
    run_in_thread(lambda: seen.append(threading.main_thread()))
    assert seen == [threading.main_thread()]


def test_current_thread_of_a_bare_thread_is_a_dummy() -> None:
    import _thread

    done = threading.Event()
    seen: list[threading.Thread] = []

    def body() -> None:
        seen.extend([threading.current_thread(), threading.current_thread()])
        done.set()

    ident = _thread.start_new_thread(body, ())
    assert done.wait(30)
    first, second = seen
    assert first is second
    assert (first.ident, first.daemon) == (ident, True)
    assert first.name.startswith("Dummy-")


def test_current_thread_under_native_is_the_system_thread() -> None:
    seen: list[threading.Thread] = []

    def body() -> None:
        with aevent.native():
            seen.append(threading.current_thread())

    run_in_thread(body)
    assert seen == [threading.main_thread()]


def test_an_exception_goes_to_the_hook() -> None:
    seen: list[Any] = []

    def body() -> None:
        raise ValueError("of a thread")

    former = threading.excepthook
    threading.excepthook = seen.append
    try:
        thread = run_in_thread(body)
        run_in_thread(sys.exit)
    finally:
        threading.excepthook = former
    system_exit: list[Any]
    args, *system_exit = seen
    assert (args.exc_type, str(args.exc_value), args.thread) == (
        ValueError,
        "of a thread",
        thread,
    )
    assert args.exc_traceback is args.exc_value.__traceback__
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(args.exc_traceback)]
    assert frames == ["body"]
    assert [args.exc_type for args in system_exit] == [SystemExit]


def test_a_finished_thread_keeps_nothing_alive() -> None:
    import gc
    import weakref

    class Argument:
        pass

    def body(argument: Argument) -> None:
        raise ValueError

    argument = Argument()
    gone = weakref.ref(argument)
    former = threading.excepthook
    threading.excepthook = lambda args: None
    gc.disable()
    try:
        thread = run_in_thread(lambda: None)
        thread = threading.Thread(target=body, args=(argument,))
        del argument
        thread.start()
        thread.join()
        assert gone() is None
    finally:
        gc.enable()
        threading.excepthook = former


def test_trace_and_profile_functions_are_a_threads_own() -> None:
    events: list[tuple[str, str]] = []

    def tracer(frame: Any, event: str, argument: object) -> Any:
        if frame.f_code.co_name in ("traced", "untraced"):
            events.append((frame.f_code.co_name, event))
        return None

    def traced() -> None:
        time.sleep(0.001)

    def untraced() -> None:
        pass

    threading.settrace(tracer)
    threading.setprofile(tracer)
    try:
        thread = threading.Thread(target=traced)
        thread.start()
        untraced()
        thread.join()
    finally:
        threading.settrace(None)
        threading.setprofile(None)
    untraced()
    assert ("traced", "call") in events
    assert ("traced", "return") in events
    assert not [event for event in events if event[0] == "untraced"]


def test_timer_and_barrier() -> None:
    fired = threading.Event()
    threading.Timer(0.001, fired.set).start()
    assert fired.wait(30)
    never = threading.Timer(3600, fired.clear)
    never.start()
    never.cancel()
    never.join(30)
    assert not never.is_alive()

    barrier = threading.Barrier(3, timeout=30)
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(barrier.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [0, 1, 2]
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.001)
    assert barrier.broken


def test_a_condition_and_an_event_of_the_original_classes_wait_in_the_task() -> None:
    """They are what modules imported before `setup` have made."""
    original = threading.Condition._aevent_orig  # type: ignore[attr-defined]
    condition = original()
    ran: list[int] = []

    def notify() -> None:
        with condition:
            ran.append(1)
            condition.notify()

    with condition:
        threading.Thread(target=notify).start()
        assert condition.wait(30)
    assert ran == [1]


def test_daemons_are_cancelled_and_others_waited_for(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time

main_done = threading.Event()

def worker():
    main_done.wait()
    time.sleep(0.01)
    print("worker done")

def daemon():
    try:
        time.sleep(3600)
    finally:
        print("daemon ended")

def main():
    threading.Thread(target=daemon, daemon=True).start()
    threading.Thread(target=worker).start()
    print("main done")
    main_done.set()

aevent.run(main)
print("run done", threading.enumerate() == [threading.main_thread()])
threading.Thread(target=print, args=("outside",)).start()
"""
    assert fresh_ok(script, backend).splitlines() == [
        "main done",
        "worker done",
        "daemon ended",
        "run done True",
        "outside",
    ]


def test_outside_tasks_everything_is_the_original(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time, queue
seen = []
thread = threading.Thread(target=lambda: seen.append(threading.get_native_id()))
thread.start(); thread.join()
assert seen == [thread.native_id] != [threading.get_native_id()]
lock = threading.Lock(); lock.acquire()
threading.Timer(0.02, lock.release).start()
assert lock.acquire(timeout=30)
event = threading.Event()
threading.Timer(0.02, event.set).start()
assert event.wait(30)
items = queue.Queue()
threading.Timer(0.02, items.put, ("x",)).start()
assert items.get(timeout=30) == "x"
assert threading.enumerate()[0] is threading.main_thread()
"""
    fresh_ok(script, backend)


def test_a_forked_childs_only_thread_is_the_one_that_forked(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import os, threading, time

def main():
    release = threading.Event()
    other = threading.Thread(target=release.wait)
    other.start()
    child = os.fork()
    if child == 0:
        other.join()
        os._exit(10 + other.is_alive() + 2 * (other in threading.enumerate()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert other.is_alive()
    release.set()
    other.join()

aevent.run(main)
"""
    fresh_ok(script, backend)


def test_a_green_thread_that_forked_is_the_main_thread_of_the_child(
    fresh_ok: Any, backend: str
) -> None:
    script = """
import asyncio, sys
import aevent
aevent.setup(sys.argv[1])
import os, signal, threading

def checks(main):
    me = threading.current_thread()
    assert threading.main_thread() is me and threading.enumerate() == [me]
    assert not main.is_alive()
    main.join()
    called = []
    signal.signal(signal.SIGUSR1, lambda *_: called.append(threading.current_thread()))
    signal.raise_signal(signal.SIGUSR1)
    threading.Event().wait(0.001)
    assert called == [me], called
    thread = threading.Thread(target=lambda: called.append(threading.main_thread()))
    thread.start()
    thread.join()
    assert called == [me, me]
    grandchild = os.fork()
    if grandchild == 0:
        assert threading.main_thread() is me
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 9

def fork(main):
    child = os.fork()
    if child == 0:
        try:
            checks(main)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert threading.main_thread() is main and main.is_alive()

def main():
    main = threading.current_thread()
    thread = threading.Thread(target=fork, args=(main,))
    thread.start()
    thread.join()
    assert threading.main_thread() is main

aevent.run(main)
"""
    fresh_ok(script, backend)
