"""Signals that async code and green threads iterate over."""

from __future__ import annotations

import os
import signal

import pytest

import aevent
from tests.backends.contract import Run, Settle


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_signals_are_received_in_order_each_once(run: Run, settle: Settle) -> None:
    async def main() -> None:
        with aevent.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as received:
            send(signal.SIGUSR1)
            send(signal.SIGUSR1)
            send(signal.SIGUSR2)
            assert await anext(received) is signal.SIGUSR1
            assert await anext(received) is signal.SIGUSR2
            with aevent.CancelScope() as scope:
                scope.cancel()
                await anext(received)
            assert scope.cancelled_caught

            async def wait() -> None:
                async for number in received:
                    assert number is signal.SIGUSR1
                    break

            def wait_in_thread() -> None:
                for number in received:
                    assert number is signal.SIGUSR2
                    break

            for waiting, number in ((wait, signal.SIGUSR1), (wait_in_thread, signal.SIGUSR2)):
                async with aevent.TaskGroup() as tg:
                    tg.spawn(waiting)
                    await settle()
                    send(number)
        with pytest.raises(RuntimeError, match="after the end"):
            await anext(received)

    run(main)


def test_a_signal_wakes_a_loop_that_waits(run: Run) -> None:
    async def main() -> None:
        with aevent.open_signal_receiver(signal.SIGALRM) as received:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert await anext(received) is signal.SIGALRM

    run(main)


def test_handlers_are_put_back_and_get_what_was_not_received(run: Run) -> None:
    calls: list[int] = []

    def handler(number: int, frame: object) -> None:
        calls.append(number)

    async def main() -> None:
        with aevent.open_signal_receiver(signal.SIGUSR1):
            assert signal.getsignal(signal.SIGUSR1) is not handler
            send(signal.SIGUSR1)
            assert not calls
        assert signal.getsignal(signal.SIGUSR1) is handler
        await aevent.checkpoint()
        assert calls == [signal.SIGUSR1]

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_it_says_what_it_cannot_do(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="at least one signal"):
            with aevent.open_signal_receiver():
                pass
        before = signal.getsignal(signal.SIGUSR1)
        with pytest.raises(OSError):
            with aevent.open_signal_receiver(signal.SIGUSR1, signal.SIGKILL):
                pass
        assert signal.getsignal(signal.SIGUSR1) is before

        def elsewhere() -> None:
            with aevent.open_signal_receiver(signal.SIGUSR1):
                pass

        with pytest.raises(RuntimeError, match="main OS thread"):
            await aevent.to_thread.run_sync(elsewhere)

    run(main)
