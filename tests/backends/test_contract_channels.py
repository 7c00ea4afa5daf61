"""Memory channels, in async tasks, green threads and OS threads."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from tests.backends.contract import Run, Settle


def test_values_arrive_in_order_whoever_sends_and_receives(run: Run) -> None:
    received: list[int] = []

    async def main() -> None:
        send, receive = aevent.open_memory_channel(2)

        async def produce() -> None:
            async with send.clone() as mine:
                for number in range(5):
                    await mine.send(number)

        def produce_in_thread() -> None:
            with send.clone() as mine:
                for number in range(5, 10):
                    mine.sync_send(number)

        def consume() -> None:
            for number in receive:
                received.append(number)

        async with aevent.TaskGroup() as tg:
            tg.spawn(consume)
            async with aevent.TaskGroup() as producers:
                producers.spawn(produce)
                producers.spawn(produce_in_thread)
            send.close()

    run(main)
    assert sorted(received) == list(range(10))
    assert [number for number in received if number < 5] == list(range(5))


def test_async_for_ends_when_every_sender_is_closed(run: Run) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(math.inf)
        other = send.clone()
        send.send_nowait(1)
        send.close()
        other.send_nowait(2)
        await other.aclose()
        assert [value async for value in receive] == [1, 2]
        with pytest.raises(aevent.EndOfStream):
            await receive.receive()
        with pytest.raises(aevent.EndOfStream):
            receive.receive_nowait()
        with pytest.raises(aevent.EndOfStream):
            receive.sync_receive()

    run(main)


def test_sending_waits_for_room(run: Run, settle: Settle) -> None:
    sent: list[int] = []

    async def main() -> None:
        send, receive = aevent.open_memory_channel(1)

        async def produce() -> None:
            for number in range(3):
                await send.send(number)
                sent.append(number)

        async with aevent.TaskGroup() as tg:
            tg.spawn(produce)
            await settle()
            assert sent == [0]
            with pytest.raises(aevent.WouldBlock):
                send.send_nowait(9)
            statistics = send.statistics()
            assert statistics == receive.statistics()
            assert statistics == aevent.MemoryChannelStatistics(1, 1, 1, 1, 1, 0)
            assert await receive.receive() == 0
            await settle()
            assert sent == [0, 1]
            assert [receive.receive_nowait(), receive.receive_nowait()] == [1, 2]
            with pytest.raises(aevent.WouldBlock):
                receive.receive_nowait()

    run(main)


def test_without_a_buffer_sender_and_receiver_meet(run: Run, settle: Settle) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(0)
        with pytest.raises(aevent.WouldBlock):
            send.send_nowait(0)
        async with aevent.TaskGroup() as tg:
            tg.spawn(send.send, 1)
            await settle()
            assert receive.receive_nowait() == 1

            async def take() -> None:
                assert await receive.receive() == 2

            tg.spawn(take)
            await settle()
            send.send_nowait(2)

    run(main)


@pytest.mark.parametrize("close_others", [False, True], ids=["own_end", "other_end"])
def test_closing_an_end_ends_the_waits(run: Run, settle: Settle, close_others: bool) -> None:
    errors: list[type[BaseException]] = []

    async def main() -> None:
        async def note(fn: Callable[..., Any], *args: Any) -> None:
            try:
                await fn(*args)
            except Exception as error:
                errors.append(type(error))

        def note_sync(fn: Callable[..., Any], *args: Any) -> None:
            try:
                fn(*args)
            except Exception as error:
                errors.append(type(error))

        send, receive = aevent.open_memory_channel(0)
        async with aevent.TaskGroup() as tg:
            tg.spawn(note, send.send, 1)
            tg.spawn(note_sync, send.sync_send, 1)
            await settle()
            (receive if close_others else send).close()
        send, receive = aevent.open_memory_channel(0)
        async with aevent.TaskGroup() as tg:
            tg.spawn(note, receive.receive)
            tg.spawn(note_sync, receive.sync_receive)
            await settle()
            (send if close_others else receive).close()

    run(main)
    if close_others:
        assert errors == [aevent.BrokenResourceError] * 2 + [aevent.EndOfStream] * 2
    else:
        assert errors == [aevent.ClosedResourceError] * 4


def test_a_closed_end_refuses_everything(run: Run) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(1)
        send.send_nowait(0)
        receive.close()
        receive.close()
        with pytest.raises(aevent.BrokenResourceError):
            await send.send(1)
        send.close()
        for call in (send.clone, receive.clone, receive.receive_nowait, receive.sync_receive):
            with pytest.raises(aevent.ClosedResourceError):
                call()
        with pytest.raises(aevent.ClosedResourceError):
            await send.send(1)
        with pytest.raises(aevent.ClosedResourceError):
            await receive.receive()

    run(main)


def test_an_end_that_nobody_has_any_more_is_closed(run: Run) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(1)
        del send
        gc.collect()
        with pytest.raises(aevent.EndOfStream):
            await receive.receive()

    run(main)


def test_cancellation_loses_no_value(run: Run, settle: Settle) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(0)
        received: list[int] = []

        async def take() -> None:
            received.append(await receive.receive())

        def take_sync() -> None:
            received.append(receive.sync_receive())

        for number, fn in enumerate((take, take_sync)):
            async with aevent.TaskGroup() as tg:
                scope = tg.spawn(fn)
                await settle()
                # Handed over and cancelled at once.
                send.send_nowait(number)
                scope.cancel()
            if received != [*range(number + 1)]:
                received.append(receive.receive_nowait())
        assert received == [0, 1]

        with aevent.CancelScope() as scope:
            scope.cancel()
            await send.send(1)
        async with aevent.TaskGroup() as tg:
            scopes = [tg.spawn(send.send, 2), tg.spawn(send.sync_send, 3)]
            await settle()
            for scope in scopes:
                scope.cancel()
        assert send.statistics().tasks_waiting_send == 0
        with pytest.raises(aevent.WouldBlock):
            receive.receive_nowait()

    run(main)


@pytest.mark.parametrize(("size", "kind"), [(-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_a_senseless_buffer_size_is_refused(size: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="max_buffer_size must be"):
        aevent.open_memory_channel(size)


def test_real_threads_use_the_same_channel(run: Run) -> None:
    async def main() -> None:
        send, receive = aevent.open_memory_channel(1)

        def real() -> None:
            with send:
                for number in range(20):
                    send.sync_send(number)

        async with aevent.TaskGroup() as tg:
            tg.spawn(aevent.to_thread.run_sync, real)
            assert [number async for number in receive] == list(range(20))

    run(main)
