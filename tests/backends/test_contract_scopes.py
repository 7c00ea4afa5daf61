"""Cancel scopes, in async code and in synchronous code alike."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from aevent._backend import current_host
from tests.backends.contract import Run, Settle, in_os_thread


class Code:
    """The same program as an async main, as a sync main, and as a green child of an async one."""

    def __init__(self, run: Run, kind: str) -> None:
        self._run = run
        self.kind = kind

    def __call__(self, body: Callable[[], None]) -> None:
        if self.kind == "sync":
            self._run(body)
        elif self.kind == "async":

            async def main() -> None:
                body()

            self._run(main)
        else:

            async def main_of_child() -> None:
                async with aevent.TaskGroup() as group:
                    group.spawn(body)

            self._run(main_of_child)


@pytest.fixture(params=["sync", "async", "child"])
def code(run: Run, request: pytest.FixtureRequest) -> Code:
    return Code(run, request.param)


def wait_async(seconds: float) -> None:
    aevent.await_(aevent.sleep(seconds))


@pytest.fixture(params=[time.sleep, wait_async], ids=["sleeps", "awaits"])
def wait(request: pytest.FixtureRequest) -> Callable[[float], None]:
    function: Callable[[float], None] = request.param
    return function


def test_cancel_ends_the_body_at_its_next_wait(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        with aevent.CancelScope() as scope:
            scope.cancel()
            assert scope.cancel_called and not scope.cancelled_caught
            wait(3600)
            pytest.fail("not reached")
        assert scope.cancelled_caught
        wait(0)

    code(body)


def test_a_body_that_does_not_wait_is_not_cancelled(code: Code) -> None:
    def body() -> None:
        with aevent.CancelScope() as scope:
            scope.cancel()
        assert scope.cancel_called and not scope.cancelled_caught
        time.sleep(0)

    code(body)


def test_a_deadline_ends_the_body(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        begin = time.monotonic()
        with aevent.move_on_after(0.01) as scope:
            wait(3600)
        assert scope.cancelled_caught
        assert 0.009 <= time.monotonic() - begin < 30

    code(body)


def test_a_deadline_that_is_past_acts_at_the_first_wait(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.move_on_at(aevent.current_time() - 1) as scope:
            reached = True
            wait(0)
            pytest.fail("not reached")
        assert reached and scope.cancelled_caught

    code(body)


def test_move_on_after_none_never_ends(code: Code) -> None:
    def body() -> None:
        with aevent.move_on_after(None) as scope:
            assert scope.deadline == math.inf
            time.sleep(0)
        assert not scope.cancel_called

    code(body)


def test_a_deadline_that_is_moved_acts_when_it_is_now(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.move_on_after(0.005) as scope:
            scope.deadline = aevent.current_time() + 3600
            wait(0.01)
            scope.deadline = aevent.current_time() + 0.001
            wait(3600)
        assert scope.cancelled_caught

    code(body)


def test_a_deadline_that_is_set_into_the_past_cancels(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.CancelScope() as scope:
            scope.deadline = aevent.current_time() - 1
            wait(3600)
        assert scope.cancelled_caught

    code(body)


def test_fail_after_raises_timeout_error_only_if_the_deadline_ended_the_body(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with pytest.raises(TimeoutError):
            with aevent.fail_after(0.005):
                wait(3600)
        with pytest.raises(TimeoutError):
            with aevent.fail_at(aevent.current_time() + 0.001):
                wait(3600)
        with aevent.fail_after(3600) as scope:
            scope.cancel()
            wait(3600)
        with aevent.fail_after(3600):
            wait(0)

    code(body)


@pytest.mark.parametrize("seconds", [-1, math.nan])
@pytest.mark.parametrize("function", [aevent.move_on_after, aevent.fail_after])
def test_wrong_seconds_are_a_value_error(function: Callable[[float], Any], seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be a non-negative number"):
        function(seconds)


def test_cancellation_is_found_again_at_each_wait(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        found = 0
        with aevent.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    wait(3600)
                except BaseException:
                    found += 1
            wait(0)
            pytest.fail("not reached")
        assert found == 3 and scope.cancelled_caught

    code(body)


def test_a_shield_protects_cleanup(code: Code, wait: Callable[[float], None]) -> None:
    log: list[str] = []

    def body() -> None:
        with aevent.CancelScope() as scope:
            scope.cancel()
            try:
                wait(3600)
            finally:
                with aevent.CancelScope(shield=True):
                    wait(0.001)
                    log.append("cleaned up")
                log.append("unshielded")
                wait(0)
                log.append("not reached")
        assert scope.cancelled_caught

    code(body)
    assert log == ["cleaned up", "unshielded"]


def test_a_shield_can_be_taken_away(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        with aevent.CancelScope() as outer:
            with aevent.CancelScope(shield=True) as inner:
                outer.cancel()
                wait(0.001)
                assert inner.shield
                inner.shield = False
                wait(3600)
        assert outer.cancelled_caught and not inner.cancelled_caught

    code(body)


def test_a_shield_does_not_protect_from_its_own_scope(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.CancelScope(shield=True) as scope:
            scope.cancel()
            wait(3600)
        assert scope.cancelled_caught

    code(body)


def test_deadline_expiring_during_shield_is_delivered_after(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        reached = False
        with aevent.move_on_after(0.002) as scope:
            with aevent.CancelScope(shield=True):
                wait(0.01)
            reached = True
            wait(3600)
        assert reached and scope.cancelled_caught

    code(body)


def test_the_outer_scope_catches_what_it_caused(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        with aevent.CancelScope() as outer:
            with aevent.CancelScope() as inner:
                outer.cancel()
                wait(3600)
            pytest.fail("not reached")
        assert outer.cancelled_caught
        assert not inner.cancelled_caught and not inner.cancel_called

    code(body)


def test_the_inner_scope_catches_its_own(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        with aevent.CancelScope() as outer:
            with aevent.CancelScope() as inner:
                inner.cancel()
                wait(3600)
            wait(0)
        assert inner.cancelled_caught and not outer.cancelled_caught

    code(body)


def test_other_exceptions_pass_a_cancelled_scope(code: Code) -> None:
    class Boom(Exception):
        pass

    def body() -> None:
        with pytest.raises(Boom):
            with aevent.CancelScope() as scope:
                scope.cancel()
                raise Boom
        assert not scope.cancelled_caught

    code(body)


def test_a_scope_cancelled_before_it_is_entered_cancels_its_body(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        scope = aevent.CancelScope()
        scope.cancel()
        with scope:
            wait(3600)
        assert scope.cancelled_caught

    code(body)


def test_a_scope_cannot_be_entered_twice(code: Code) -> None:
    def body() -> None:
        scope = aevent.CancelScope()
        with scope:
            with pytest.raises(RuntimeError, match="entered once only"):
                with scope:
                    pass
        with pytest.raises(RuntimeError, match="entered once only"):
            with scope:
                pass

    code(body)


def test_scopes_left_in_the_wrong_order_are_an_error(run: Run) -> None:
    def main() -> None:
        outer, inner = aevent.CancelScope(), aevent.CancelScope()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(RuntimeError, match="reverse order"):
            outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)

    run(main)


def test_a_scope_that_was_not_entered_cannot_be_left(code: Code) -> None:
    def body() -> None:
        with pytest.raises(RuntimeError, match="not entered"):
            aevent.CancelScope().__exit__(None, None, None)

    code(body)


def test_a_scope_outside_a_task_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"a CancelScope was entered outside a task: start the"):
        with aevent.CancelScope():
            pass


def test_a_scope_may_be_cancelled_by_another_task(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.CancelScope() as scope:
            threading.Thread(target=scope.cancel).start()
            wait(3600)
        assert scope.cancelled_caught

    code(body)


def test_a_scope_may_be_cancelled_by_an_os_thread(
    code: Code, wait: Callable[[float], None]
) -> None:
    def body() -> None:
        with aevent.CancelScope() as scope:
            thread = in_os_thread(scope.cancel)
            wait(3600)
        assert scope.cancelled_caught
        with aevent.native():
            thread.join()

    code(body)


def test_an_os_thread_may_set_the_deadline(code: Code, wait: Callable[[float], None]) -> None:
    def body() -> None:
        for seconds in (0.0, 0.002):
            with aevent.move_on_after(3600) as scope:

                def move(scope: aevent.CancelScope = scope, seconds: float = seconds) -> None:
                    scope.deadline = aevent.current_time() + seconds

                thread = in_os_thread(move)
                wait(3600)
            assert scope.cancelled_caught
            with aevent.native():
                thread.join()

    code(body)


def test_an_os_thread_may_move_a_deadline_away(code: Code, wait: Callable[[float], None]) -> None:
    def is_cancelled_after(seconds: float) -> bool:
        with aevent.move_on_after(seconds) as scope:

            def move() -> None:
                scope.deadline = math.inf

            thread = in_os_thread(move)
            with aevent.native():
                thread.join()
            wait(1.5 * seconds)
        return scope.cancel_called

    def body() -> None:
        # The machine may stand still for so long that it is moved too late, but not any time.
        assert not all(is_cancelled_after(seconds) for seconds in (0.02, 0.2, 1, 5))

    code(body)


def test_current_effective_deadline_is_the_nearest_that_is_not_shielded(code: Code) -> None:
    now = aevent.current_time()

    def body() -> None:
        look = aevent.current_effective_deadline
        assert look() == math.inf
        with aevent.move_on_at(now + 100):
            assert look() == pytest.approx(now + 100, abs=10)
            with aevent.move_on_at(now + 200):
                assert look() == pytest.approx(now + 100, abs=10)
            with aevent.move_on_at(now + 50):
                assert look() == pytest.approx(now + 50, abs=10)
            with aevent.move_on_at(now + 200, shield=True):
                assert look() == pytest.approx(now + 200, abs=10)
            with aevent.CancelScope() as scope:
                scope.cancel()
                assert look() == -math.inf
        assert look() == math.inf

    code(body)


def test_the_scope_of_a_child_tells_what_became_of_it(run: Run, settle: Settle) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            cancelled = [group.spawn(fn, 3600) for fn in (time.sleep, aevent.sleep)]
            ended = [group.spawn(fn, 0) for fn in (time.sleep, aevent.sleep)]
            await settle()
            for scope in cancelled + ended:
                scope.cancel()
            await settle()
            assert [scope.cancelled_caught for scope in cancelled] == [True, True]
            assert [scope.cancelled_caught for scope in ended] == [False, False]

    run(main)


def test_async_waits_are_checkpoints_even_if_they_need_not_wait(run: Run) -> None:
    async def main() -> None:
        event, lock, semaphore = aevent.Event(), aevent.Lock(), aevent.Semaphore(1)
        event.set()
        queue: Any = aevent.SimpleQueue()
        queue.put(1)
        for wait in (
            event.async_wait,
            lock.async_acquire,
            semaphore.async_acquire,
            queue.async_get,
            aevent.checkpoint,
            lambda: aevent.sleep(0),
            lambda: aevent.sleep_until(0),
        ):
            with aevent.CancelScope() as scope:
                scope.cancel()
                await wait()
            assert scope.cancelled_caught, wait
        assert not lock.locked() and queue.qsize() == 1

    run(main)


def test_repr_tells_the_state(code: Code) -> None:
    def body() -> None:
        scope = aevent.CancelScope()
        assert repr(scope) == "<aevent.CancelScope, unbound>"
        with scope:
            assert repr(scope) == "<aevent.CancelScope, active>"
            scope.cancel()
            assert repr(scope) == "<aevent.CancelScope, active, cancelled>"
        assert repr(scope) == "<aevent.CancelScope, exited, cancelled>"

    code(body)


def test_a_scope_that_is_cancelled_while_the_host_enters_it_is_cancelled(
    run: Run, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's code may run for long, and let others run, before its scope is there."""
    if backend == "native":
        pytest.skip("there is no host")

    async def main() -> None:
        host = current_host()
        open_scope = host.open_scope
        scope = aevent.CancelScope()

        def slow(deadline: float, shield: bool) -> object:
            opened = open_scope(deadline, shield)
            scope.cancel()
            return opened

        monkeypatch.setattr(host, "open_scope", slow)
        with scope:
            await aevent.sleep_forever()
        assert scope.cancelled_caught

    run(main)
