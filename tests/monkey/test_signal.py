"""Handlers run in the main task; `sigwait` and its family park."""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat

NUMBER = signal.SIGUSR1
Handler = Callable[[int, Any], object]


class Stop(Exception):
    pass


@contextlib.contextmanager
def handled(handler: Handler, number: int = NUMBER) -> Iterator[None]:
    former = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, former)


@contextlib.contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def in_thread(fn: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    return thread


def send(number: int = NUMBER) -> None:
    os.kill(os.getpid(), number)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def test_a_handler_runs_as_the_main_thread() -> None:
    seen: list[object] = []
    local = threading.local()
    local.name = "main's"

    def handler(number: int, frame: Any) -> None:
        seen.append(
            (
                number,
                threading.current_thread(),
                threading.get_ident(),
                variable.get(),
                local.name,
                frame.f_code.co_name,
            )
        )

    variable.set("main's")
    held = threading.Lock()
    held.acquire()

    def worker() -> None:
        variable.set("worker's")
        local.name = "worker's"
        send()
        time.sleep(0)
        held.release()

    with handled(handler):
        in_thread(worker)
        held.acquire()
    main = threading.main_thread()
    name = sys._getframe().f_code.co_name
    assert seen == [(NUMBER, main, threading.get_ident(), "main's", "main's", name)]


def test_what_a_handler_raises_comes_out_where_main_is_parked() -> None:
    def handler(number: int, frame: object) -> None:
        raise Stop

    left, right = socket.socketpair()
    held = threading.Lock()
    held.acquire()
    rheld = threading.RLock()
    release = threading.Event()
    holder = in_thread(lambda: (rheld.acquire(), release.wait(), rheld.release()))
    with left, right, handled(handler):
        for wait in (
            lambda: time.sleep(3600),
            lambda: left.recv(1),
            held.acquire,
            rheld.acquire,
            threading.Event().wait,
            holder.join,
            signal.pause,
        ):
            thread = in_thread(send)
            with pytest.raises(Stop):
                wait()
            thread.join()
    release.set()
    holder.join()


def test_what_a_handler_raises_comes_out_of_calls_that_never_wait() -> None:
    """Also if the loop notices the signal, when such a call lets others run."""

    def handler(number: int, frame: object) -> None:
        raise ZeroDivisionError

    reader, writer = os.pipe()
    with handled(handler, signal.SIGALRM), open(reader, "rb"), open(writer, "wb") as file:
        for _ in range(200):
            give_up = time.monotonic() + 30
            with pytest.raises(ZeroDivisionError):
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                while time.monotonic() < give_up:
                    for _ in range(100):
                        file.write(b"x")
                        file.flush()
                    os.read(reader, 1000)


def test_what_a_handler_raises_ends_no_other_thread() -> None:
    def handler(number: int, frame: object) -> None:
        raise Stop

    ended: list[str] = []

    def worker() -> None:
        for _ in range(3):
            send()
            time.sleep(0)
        ended.append("worker")

    stopped = 0
    with handled(handler):
        thread = in_thread(worker)
        while thread.is_alive():
            try:
                thread.join()
            except Stop:
                stopped += 1
    assert (stopped, ended) == (3, ["worker"])


def test_a_wait_goes_on_after_a_handler_with_the_time_that_is_left() -> None:
    calls: list[int] = []
    held = threading.Lock()
    held.acquire()
    with handled(lambda number, frame: calls.append(number)):
        for wait in (lambda: time.sleep(0.05), lambda: held.acquire(timeout=0.05)):
            calls.clear()

            def worker() -> None:
                for number in range(4):
                    time.sleep(0.01)
                    send()
                    # One that comes while another is pending is none of its own.
                    while len(calls) == number:
                        time.sleep(0)

            thread = in_thread(worker)
            began = time.monotonic()
            wait()
            assert 0.05 <= time.monotonic() - began < 30
            thread.join()
            assert calls == [NUMBER] * 4


def test_a_handler_may_wait_for_another_thread() -> None:
    held = threading.Lock()
    held.acquire()
    order: list[str] = []

    def handler(number: int, frame: object) -> None:
        order.append("handler begins")
        with held:
            order.append("handler has the lock")

    def worker() -> None:
        send()
        time.sleep(0)
        order.append("worker releases")
        held.release()

    with handled(handler):
        in_thread(worker).join()
    assert order == ["handler begins", "worker releases", "handler has the lock"]


def test_a_thread_that_computes_is_preempted_for_a_handler() -> None:
    seen: list[threading.Thread] = []

    def worker() -> None:
        send()
        end = time.monotonic() + 30
        while not seen and time.monotonic() < end:
            pass

    with handled(lambda number, frame: seen.append(threading.current_thread())):
        in_thread(worker).join()
    assert seen == [threading.main_thread()]


def test_signals_that_came_from_outside_are_handled_while_everybody_waits() -> None:
    got = threading.Event()
    with handled(lambda number, frame: got.set()), heartbeat() as heart:
        child = subprocess.Popen(["kill", "-USR1", str(os.getpid())])
        assert got.wait(30)
        child.wait()
        time.sleep(0.002)
        assert heart.ticks


def test_alarms_and_interval_timers_reach_the_program() -> None:
    ticks: list[int] = []
    with handled(lambda number, frame: ticks.append(number), signal.SIGALRM):
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        while len(ticks) < 3:
            signal.pause()
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_handlers_are_set_by_the_main_thread_only() -> None:
    errors: list[str] = []

    def worker() -> None:
        for call in (
            lambda: signal.signal(NUMBER, signal.SIG_IGN),
            lambda: signal.set_wakeup_fd(-1),
        ):
            try:
                call()
            except ValueError as error:
                errors.append(str(error))

    in_thread(worker).join()
    assert errors == [
        "signal only works in main thread of the main interpreter",
        "set_wakeup_fd only works in main thread of the main interpreter",
    ]


def test_getsignal_gives_the_handler_that_was_set() -> None:
    def handler(number: int, frame: object) -> None:
        pass

    former = signal.getsignal(NUMBER)
    assert signal.signal(NUMBER, handler) == former
    assert signal.getsignal(NUMBER) is handler
    assert signal.signal(NUMBER, signal.SIG_IGN) is handler
    assert signal.getsignal(NUMBER) is signal.SIG_IGN
    signal.signal(NUMBER, former)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for wrong in (lambda: signal.signal(1000, handler), lambda: signal.signal(-1, handler)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError):
        signal.signal(NUMBER, "a handler")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        signal.signal("a signal", handler)  # type: ignore[arg-type]


def test_a_wakeup_descriptor_of_the_program() -> None:
    left, right = socket.socketpair()
    with left, right, handled(lambda number, frame: None):
        left.setblocking(False)
        right.setblocking(False)
        former = signal.set_wakeup_fd(right.fileno())
        try:
            send()
            thread = in_thread(lambda: (time.sleep(0.001), send()))
            thread.join()
            time.sleep(0.001)
            assert left.recv(10) == bytes([NUMBER, NUMBER])
        finally:
            assert signal.set_wakeup_fd(former) == right.fileno()


def test_sigtimedwait_takes_its_time() -> None:
    with blocked(NUMBER), heartbeat() as heart:
        began = time.monotonic()
        assert signal.sigtimedwait([NUMBER], 0.02) is None
        assert 0.02 <= time.monotonic() - began < 30
        assert signal.sigtimedwait([NUMBER], 0) is None
        heart.after_ticks(send)
        info = signal.sigtimedwait([NUMBER], 60)
        assert info is not None and info.si_signo == NUMBER
    for wrong in (-1, "1"):
        with pytest.raises((ValueError, TypeError)):
            signal.sigtimedwait([NUMBER], wrong)  # type: ignore[arg-type]


def test_a_signal_that_is_pending_is_taken_at_once() -> None:
    with blocked(NUMBER):
        send()
        assert signal.sigwait({NUMBER}) is signal.Signals(NUMBER)
        send()
        assert signal.sigtimedwait([NUMBER], 0).si_signo == NUMBER


def test_waiting_for_a_signal_parks() -> None:
    for wait in (
        signal.sigwait,
        lambda numbers: signal.sigwaitinfo(numbers).si_signo,
        lambda numbers: signal.sigtimedwait(numbers, 60).si_signo,
    ):
        with blocked(NUMBER):
            thread = in_thread(lambda: (time.sleep(0.001), send()))
            assert wait([NUMBER, signal.SIGUSR2]) == NUMBER
            thread.join()


def test_threads_wait_for_different_signals() -> None:
    got: list[int] = []
    with blocked(signal.SIGUSR1, signal.SIGUSR2):
        first = in_thread(lambda: got.append(signal.sigwait([signal.SIGUSR1])))
        second = in_thread(lambda: got.append(signal.sigwait([signal.SIGUSR2])))
        time.sleep(0)
        send(signal.SIGUSR2)
        second.join()
        send(signal.SIGUSR1)
        first.join()
    assert got == [signal.SIGUSR2, signal.SIGUSR1]


def test_waiting_for_a_signal_that_is_not_blocked_leaves_the_mask_as_it_was() -> None:
    calls: list[int] = []

    def send_when_blocked() -> None:
        # Sent earlier, it would be the handler's.
        while NUMBER not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
            time.sleep(0)
        send()

    with handled(lambda number, frame: calls.append(number)):
        thread = in_thread(send_when_blocked)
        assert signal.sigwait([NUMBER]) == NUMBER
        thread.join()
        assert NUMBER not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert calls == []


def test_a_wait_for_a_signal_is_cancelled() -> None:
    with blocked(NUMBER):
        for wait in (
            lambda: signal.sigwait([NUMBER]),
            lambda: signal.sigwaitinfo([NUMBER]),
            lambda: signal.sigtimedwait([NUMBER], 3600),
            signal.pause,
        ):
            with aevent.move_on_after(0.001) as scope:
                wait()
            assert scope.cancelled_caught


def test_a_signal_for_a_green_thread_goes_to_its_os_thread() -> None:
    calls: list[int] = []
    with handled(lambda number, frame: calls.append(number)):
        go_on = threading.Event()
        thread = in_thread(go_on.wait)
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, NUMBER)
        signal.pthread_kill(threading.main_thread().ident or 0, NUMBER)
        go_on.set()
        thread.join()
    assert len(calls) >= 1
