"""to_thread, from_thread and tokens: out into real threads and back in."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest

import aevent
from aevent._monkey import originals
from tests.backends.contract import Boom, Run, Settle

get_ident = originals.get_ident
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def real_event() -> Any:
    """An event of the operating system's threads, which blocks whoever waits."""
    with aevent.native():
        return threading.Event()


async def aidentity(value: Any) -> Any:
    await aevent.checkpoint()
    return value


def test_run_sync_calls_in_another_thread_and_returns_or_raises(run: Run) -> None:
    async def main() -> None:
        assert await aevent.to_thread.run_sync(get_ident) != get_ident()
        assert await aevent.to_thread.run_sync(divmod, 7, 2) == (3, 1)
        error = Boom()

        def fail() -> None:
            raise error

        with pytest.raises(Boom) as caught:
            await aevent.to_thread.run_sync(fail)
        assert caught.value is error
        with pytest.raises(TypeError, match="expects a synchronous function"):
            await aevent.to_thread.run_sync(aidentity, 1)

    run(main)


def test_the_thread_sees_a_copy_of_the_context(run: Run) -> None:
    def in_thread() -> int:
        seen = variable.get()
        variable.set(9)
        return seen

    async def main() -> None:
        variable.set(5)
        assert await aevent.to_thread.run_sync(in_thread) == 5
        assert variable.get() == 5

    run(main)


def test_other_tasks_run_meanwhile(run: Run) -> None:
    async def main() -> None:
        go = real_event()

        async def release() -> None:
            go.set()

        async with aevent.TaskGroup() as tg:
            tg.spawn(aevent.to_thread.run_sync, go.wait)
            tg.spawn(release)

    run(main)


def test_a_cancelled_call_is_waited_for_unless_it_may_be_abandoned(run: Run) -> None:
    async def main() -> None:
        log: list[str] = []
        go = real_event()

        def call() -> str:
            go.wait()
            log.append("called")
            return "result"

        with aevent.CancelScope() as scope:

            async def cancel() -> None:
                scope.cancel()
                await aevent.lowlevel.cancel_shielded_checkpoint()
                go.set()

            async with aevent.TaskGroup() as tg:
                tg.spawn(cancel)
                assert await aevent.to_thread.run_sync(call) == "result"
        assert log == ["called"]

        go.clear()
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(_cancel, scope)
                await aevent.to_thread.run_sync(call, abandon_on_cancel=True)
        assert scope.cancelled_caught and log == ["called"]
        go.set()

    run(main)


async def _cancel(scope: aevent.CancelScope) -> None:
    scope.cancel()


def test_a_cancelled_task_makes_no_call(run: Run) -> None:
    async def main() -> None:
        called: list[int] = []
        with aevent.CancelScope() as scope:
            scope.cancel()
            await aevent.to_thread.run_sync(called.append, 1)
        assert not called

    run(main)


def test_check_cancelled_raises_in_the_thread_what_ends_the_task(run: Run) -> None:
    async def main() -> None:
        begun = real_event()
        ended: list[BaseException] = []

        def compute() -> None:
            try:
                begun.set()
                while True:
                    aevent.from_thread.check_cancelled()
            except BaseException as error:
                ended.append(error)
                raise

        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(aevent.to_thread.run_sync, compute)
                await aevent.to_thread.run_sync(begun.wait)
                scope.cancel()
        assert len(ended) == 1

    run(main)
    with pytest.raises(RuntimeError, match="not started by"):
        aevent.from_thread.check_cancelled()


def test_an_abandoned_thread_is_told_so(run: Run) -> None:
    async def main() -> None:
        go, done = real_event(), real_event()
        raised: list[type[BaseException]] = []

        def compute() -> None:
            go.wait()
            for call in (
                aevent.from_thread.check_cancelled,
                lambda: aevent.from_thread.run(aidentity, 1),
            ):
                try:
                    call()
                except BaseException as error:
                    raised.append(type(error))
            done.set()

        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(_cancel, scope)
                await aevent.to_thread.run_sync(compute, abandon_on_cancel=True)
        go.set()
        await aevent.to_thread.run_sync(done.wait)
        assert raised == [aevent.Cancelled] * 2

    run(main)


@pytest.mark.parametrize("abandon", [False, True])
def test_a_thread_calls_back(run: Run, abandon: bool) -> None:
    async def ask(value: int) -> tuple[int, int, int]:
        await aevent.sleep(0)
        return value, variable.get(), get_ident()

    async def fail() -> None:
        raise Boom

    def call(loop_thread: int) -> None:
        variable.set(3)
        assert aevent.from_thread.run(ask, 1) == (1, 3, loop_thread)
        assert aevent.from_thread.run_sync(get_ident) == loop_thread
        assert aevent.from_thread.run_sync(variable.get) == 3
        for run_it, fn in ((aevent.from_thread.run, fail), (aevent.from_thread.run_sync, int)):
            with pytest.raises((Boom, ValueError)):
                run_it(fn, *(("x",) if fn is int else ()))
        with pytest.raises(TypeError, match="expects an async function"):
            aevent.from_thread.run(get_ident)

    async def main() -> None:
        await aevent.to_thread.run_sync(call, get_ident(), abandon_on_cancel=abandon)
        assert variable.get() == 0

    run(main)


def test_what_a_thread_calls_is_in_the_scopes_of_its_task(run: Run) -> None:
    async def main() -> None:
        def call() -> float:
            return aevent.from_thread.run_sync(aevent.current_effective_deadline)

        with aevent.move_on_after(1000) as scope:
            deadline = await aevent.to_thread.run_sync(call)
        # Shielded while it waits, so it is asked about in a call that is not.
        assert abs(deadline - scope.deadline) < 1

        with aevent.CancelScope() as scope:

            def cancel_and_call() -> None:
                aevent.from_thread.run_sync(scope.cancel)
                aevent.from_thread.run(aevent.sleep_forever)

            await aevent.to_thread.run_sync(cancel_and_call)
        assert scope.cancelled_caught

    run(main)


def test_other_threads_need_a_token(run: Run) -> None:
    async def main() -> None:
        token = aevent.lowlevel.current_token()
        assert aevent.lowlevel.current_token() is token
        results: list[Any] = []
        loop_thread = get_ident()

        def real() -> None:
            with pytest.raises(RuntimeError, match="pass token="):
                aevent.from_thread.run(aidentity, 1)
            with pytest.raises(RuntimeError, match="runs no loop"):
                aevent.lowlevel.current_token()
            results.append(aevent.from_thread.run(aidentity, 5, token=token))
            results.append(aevent.from_thread.run_sync(get_ident, token=token) == loop_thread)

        thread = originals.SystemThread(target=real)
        with aevent.native():
            thread.start()
        while len(results) < 2:
            await aevent.sleep(0.001)  # there is nothing to wait for but the thread
        assert results == [5, True]

    run(main)


def test_calls_left_with_a_token_are_made_in_order(run: Run) -> None:
    async def main() -> None:
        token = aevent.lowlevel.current_token()
        done = aevent.Event()
        calls: list[int] = []

        def leave() -> None:
            for number in range(10):
                token.run_sync_soon(calls.append, number)
            token.run_sync_soon(done.set)

        await aevent.to_thread.run_sync(leave)
        await done.async_wait()
        assert calls == list(range(10))

    run(main)


def test_a_run_that_has_ended_cannot_be_called_into(run: Run) -> None:
    async def main() -> aevent.lowlevel.Token:
        return aevent.lowlevel.current_token()

    token = run(main)
    with pytest.raises(aevent.RunFinishedError):
        token.run_sync_soon(print)
    with pytest.raises(aevent.RunFinishedError):
        aevent.from_thread.run(aidentity, 1, token=token)


def test_waiting_for_ones_own_loop_is_refused_outside_tasks_and_parks_in_one(run: Run) -> None:
    async def main() -> None:
        token = aevent.lowlevel.current_token()
        with aevent.native():
            with pytest.raises(RuntimeError, match="would wait for itself"):
                aevent.from_thread.run(aidentity, 1, token=token)

        def green() -> None:
            assert aevent.from_thread.run(aidentity, 1, token=token) == 1

        async with aevent.TaskGroup() as tg:
            tg.spawn(green)

    run(main)


def test_a_limiter_bounds_the_threads(run: Run, settle: Settle) -> None:
    async def main() -> None:
        limiter = aevent.CapacityLimiter(1)
        go = [real_event(), real_event()]
        log: list[int] = []

        def call(number: int) -> None:
            log.append(number)
            go[number].wait()

        async with aevent.TaskGroup() as tg:
            for number in range(2):
                tg.spawn(_call_limited, call, number, limiter)
                await settle()
            statistics = limiter.statistics()
            assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (1, 1)
            go[0].set()
            go[1].set()
        assert log == [0, 1] and limiter.borrowed_tokens == 0
        default = aevent.to_thread.current_default_thread_limiter()
        assert default.total_tokens == 40
        assert default is aevent.to_thread.current_default_thread_limiter()

    run(main)


async def _call_limited(call: Any, number: int, limiter: aevent.CapacityLimiter) -> None:
    await aevent.to_thread.run_sync(call, number, limiter=limiter)


def test_an_abandoned_call_keeps_its_token_until_it_is_done(run: Run) -> None:
    async def main() -> None:
        limiter = aevent.CapacityLimiter(1)
        go = real_event()
        with aevent.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(_cancel, scope)
                await aevent.to_thread.run_sync(go.wait, abandon_on_cancel=True, limiter=limiter)
        assert limiter.borrowed_tokens == 1
        go.set()
        async with limiter:
            pass

    run(main)


def test_more_calls_run_at_once_than_the_pool_of_offload_has_threads(run: Run) -> None:
    async def main() -> None:
        with aevent.native():
            barrier = threading.Barrier(80)
        limiter = aevent.CapacityLimiter(80)
        async with aevent.TaskGroup() as tg:
            for _ in range(80):
                tg.spawn(_call_waiting, barrier.wait, limiter)

    run(main)


async def _call_waiting(call: Any, limiter: aevent.CapacityLimiter) -> None:
    await aevent.to_thread.run_sync(call, limiter=limiter)
