"""The time of a loop is in the test's hands: it stands still, runs, and jumps when all wait."""

from __future__ import annotations

import asyncio
import math
import queue
import sched
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import trio

import aevent
from aevent.testing import MockClock

HOUR = 3600.0

#: What the running test runs on.
on: str

#: Tests that enter a clock in a program that runs already: a host's loop has to be made for one.
native_only: set[Callable[..., object]] = set()


def only_natively(test: Callable[[], None]) -> Callable[[], None]:
    native_only.add(test)
    return test


def run(fn: Callable[..., Any], **options: Any) -> Any:
    return aevent.run(fn, backend=on, **options)


@pytest.fixture(autouse=True, params=["native", "asyncio", "trio"])
def hardly_any_time_passes(request: pytest.FixtureRequest) -> Iterator[None]:
    global on
    on = request.param
    if on != "native" and request.function in native_only:
        pytest.skip("a clock is given to run() there")
    if on == "trio":
        pytest.importorskip("trio")
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60


def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


def passed(fn: Callable[[], object]) -> float:
    """What the clock of the loop says that `fn()` took in a green thread."""

    def main() -> float:
        began = time.monotonic()
        fn()
        return time.monotonic() - began

    result: float = run(main, clock=autojump())
    return result


def test_sleeping_threads_wake_in_order_and_at_once() -> None:
    order = []

    def sleep(hours: int) -> None:
        time.sleep(hours * HOUR)
        order.append((hours, round(time.monotonic() - began)))

    def main() -> None:
        global began
        began = time.monotonic()
        threads = [threading.Thread(target=sleep, args=(hours,)) for hours in (3, 1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run(main, clock=autojump())
    assert order == [(1, 3600), (2, 7200), (3, 10800)]


def test_async_sleep_and_deadlines() -> None:
    async def main() -> tuple[float, bool]:
        began = aevent.current_time()
        await aevent.sleep(HOUR)
        with aevent.move_on_after(HOUR) as scope:
            await aevent.sleep_forever()
        with pytest.raises(TimeoutError):
            with aevent.fail_after(HOUR):
                await aevent.sleep(2 * HOUR)
        return aevent.current_time() - began, scope.cancelled_caught

    assert run(main, clock=autojump()) == (pytest.approx(3 * HOUR), True)


def test_timeouts_of_locks_queues_events_and_conditions() -> None:
    def wait() -> None:
        lock = threading.Lock()
        lock.acquire()
        assert not lock.acquire(timeout=1)
        assert not threading.Event().wait(2)
        assert not threading.Semaphore(0).acquire(timeout=4)
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=8)
        condition = threading.Condition()
        with condition:
            assert not condition.wait(16)
            assert not condition.wait_for(lambda: False, 32)

    assert passed(wait) == pytest.approx(63, abs=0.001)


def test_timeouts_of_sockets_and_select() -> None:
    def wait() -> None:
        left, right = socket.socketpair()
        with left, right:
            left.settimeout(1)
            with pytest.raises(TimeoutError):
                left.recv(1)
            assert select.select([right], [], [], 2) == ([], [], [])

    assert passed(wait) == pytest.approx(3, abs=0.001)


def test_what_is_sent_comes_before_the_timeout() -> None:
    def main() -> list[bytes]:
        left, right = socket.socketpair()
        got = []

        def serve() -> None:
            for _ in range(3):
                time.sleep(10)
                right.send(b"x")

        with left, right:
            left.settimeout(15)
            thread = threading.Thread(target=serve)
            thread.start()
            for _ in range(3):
                got.append(left.recv(1))
            thread.join()
        return got

    assert run(main, clock=autojump()) == [b"x"] * 3


def test_timers_and_schedulers_of_the_library() -> None:
    def wait() -> None:
        done = threading.Event()
        threading.Timer(HOUR, done.set).start()
        done.wait()
        scheduler = sched.scheduler(time.monotonic, time.sleep)
        scheduler.enter(HOUR, 0, lambda: None)
        scheduler.run()

    assert passed(wait) == pytest.approx(2 * HOUR)


def test_a_little_time_passes_as_well() -> None:
    # A host takes longer to find that nobody is ready.
    times = 1000 if on == "native" else 100

    def main() -> None:
        for _ in range(times):
            before = time.monotonic_ns()
            time.sleep(1e-10)
            assert time.monotonic_ns() > before
            deadline = time.monotonic() + 0.1
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(left)

    run(main, clock=autojump())

    async def main_async() -> None:
        for _ in range(times):
            deadline = aevent.current_time() + 0.1
            while aevent.current_time() < deadline:
                await aevent.sleep_until(deadline)

    run(main_async, clock=autojump())


@only_natively
def test_the_wall_clock_follows_and_comes_back() -> None:
    def main() -> None:
        before = time.time()
        with autojump():
            time.sleep(HOUR)
            assert time.time() - before == pytest.approx(HOUR, abs=60)
            assert time.time_ns() / 1e9 - before == pytest.approx(HOUR, abs=60)
        assert time.time() - before < 2

    run(main)


@only_natively
def test_monotonic_clocks_never_go_back() -> None:
    def main() -> None:
        began = time.monotonic()
        with autojump():
            time.sleep(HOUR)
            during = time.monotonic(), time.perf_counter(), time.monotonic_ns() / 1e9
        assert min(during) >= began + HOUR
        after = time.monotonic(), time.perf_counter(), time.monotonic_ns() / 1e9
        assert all(b <= a < b + 60 for b, a in zip(during, after, strict=True))
        time.sleep(0.001)
        assert not threading.Event().wait(0.001)

    run(main)
    now = time.monotonic()

    def afterwards() -> None:
        assert time.monotonic() - now < 60

    run(afterwards)


def test_time_stands_still_until_it_jumps() -> None:
    clock = MockClock()

    async def main() -> None:
        began = aevent.current_time()
        woken = []

        async def sleep() -> None:
            await aevent.sleep(10)
            woken.append(aevent.current_time() - began)

        async with aevent.TaskGroup() as tg:
            await tg.spawn(sleep)
            await aevent.testing.wait_all_tasks_blocked()
            clock.jump(9)
            await aevent.testing.wait_all_tasks_blocked(0.01)
            assert woken == []
            assert aevent.current_time() - began == pytest.approx(9)
            clock.jump(1)
        assert woken == [pytest.approx(10)]

    run(main, clock=clock)


def test_a_fast_clock() -> None:
    def main() -> float:
        began = time.monotonic()
        time.sleep(HOUR)
        return time.monotonic() - began

    assert HOUR <= run(main, clock=MockClock(rate=360_000)) < 100 * HOUR


def test_rate_and_threshold_may_change() -> None:
    clock = MockClock()

    def main() -> None:
        clock.autojump_threshold = 0
        time.sleep(HOUR)
        clock.autojump_threshold = math.inf
        clock.rate = 1000
        time.sleep(1)

    run(main, clock=clock)


def test_no_jump_while_a_call_is_offloaded() -> None:
    done = threading.Event()

    def main() -> float:
        began = time.monotonic()
        thread = threading.Thread(target=lambda: aevent.offload(real_sleep, 0.05))
        thread.start()
        assert not done.wait(0.02)
        took = time.monotonic() - began
        thread.join()
        time.sleep(HOUR)
        assert took < 60
        return time.monotonic() - began

    assert run(main, clock=autojump()) == pytest.approx(HOUR, abs=60)


def real_sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_child_process_has_its_time() -> None:
    def main() -> int:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(0.05)"])
        return child.wait(timeout=4)

    assert run(main, clock=autojump()) == 0


def test_real_time_for_real_threads_and_under_native() -> None:
    def main() -> None:
        time.sleep(HOUR)
        with aevent.native():
            before = time.monotonic()
        assert before + HOUR / 2 < time.monotonic()
        assert aevent.offload(time.monotonic) < time.monotonic() - HOUR / 2
        lock = aevent.Lock()
        lock.acquire()
        with aevent.native():
            # Blocks the OS thread, for which time does not stand still.
            assert not lock.acquire(timeout=0.01)

    run(main, clock=autojump())


def test_those_who_wait_until_all_are_blocked_come_before_a_jump() -> None:
    order = []

    async def main() -> None:
        async def sleep() -> None:
            await aevent.sleep(1)
            order.append("slept")

        async def wait(cushion: float) -> None:
            await aevent.testing.wait_all_tasks_blocked(cushion)
            order.append(f"waited {cushion}")

        async with aevent.TaskGroup() as tg:
            tg.spawn(sleep)
            tg.spawn(wait, 0.01)
            tg.spawn(wait, 0.0)

    run(main, clock=MockClock(autojump_threshold=0.02))
    assert order == ["waited 0.0", "waited 0.01", "slept"]


@only_natively
def test_one_clock_at_a_time() -> None:
    def main() -> None:
        with MockClock() as clock:
            with pytest.raises(aevent.AeventError, match="another MockClock is in use"):
                MockClock().__enter__()
            with pytest.raises(aevent.AeventError, match="in use already"):
                clock.__enter__()

    run(main)


@only_natively
def test_mistakes_are_named() -> None:
    for rate in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="rate must be"):
            MockClock(rate=rate)
    for threshold in (-1, math.nan):
        with pytest.raises(ValueError, match="autojump_threshold must be"):
            MockClock(autojump_threshold=threshold)
    with pytest.raises(aevent.AeventError, match="not in use"):
        MockClock().jump(1)
    with pytest.raises(ValueError, match="backwards"):
        MockClock().jump(-1)
    with pytest.raises(TypeError, match="no option 'clok': it has clock"):
        run(lambda: None, clok=MockClock())


@only_natively
@pytest.mark.parametrize("host", ["asyncio", "trio"])
def test_a_hosts_loop_has_to_be_made_for_it(host: str) -> None:
    pytest.importorskip(host)

    async def main() -> None:
        with pytest.raises(aevent.AeventError, match="give the MockClock to"):
            MockClock().__enter__()

    aevent.run(main, backend=host)


def test_a_clock_and_a_loop_of_ones_own_exclude_each_other() -> None:
    if on == "asyncio":
        factory = asyncio.new_event_loop
        with pytest.raises(TypeError, match="leave loop_factory out"):
            run(lambda: None, clock=MockClock(), loop_factory=factory)
        with pytest.raises(TypeError, match=r"clock must be an aevent\.testing\.MockClock, not 5"):
            run(lambda: None, clock=5)


def test_the_hosts_own_time_is_the_same() -> None:
    """What is asleep in the host's own way, and in ours, wakes in order."""
    order = []

    async def hosts(hours: float) -> None:
        await (anyio.sleep(hours * HOUR) if on == "native" else hosts_sleep(hours * HOUR))
        order.append(hours)

    async def hosts_sleep(seconds: float) -> None:
        await (asyncio.sleep(seconds) if on == "asyncio" else trio.sleep(seconds))

    def green(hours: float) -> None:
        time.sleep(hours * HOUR)
        order.append(hours)

    def calls() -> float:
        before = time.monotonic()
        aevent.await_(hosts(4.5))
        return time.monotonic() - before

    async def with_portal() -> None:
        time.sleep(2.5 * HOUR)
        order.append(2.5)

    async def main() -> None:
        began = anyio.current_time()
        with pytest.raises(TimeoutError), aevent.fail_after(10 * HOUR):
            async with aevent.TaskGroup() as group:
                for hours in (3, 1):
                    group.spawn(hosts, hours)
                for hours in (4, 2):
                    group.spawn(green, hours)
                group.spawn(with_portal)
                group.spawn(calls)
                group.spawn(threading.Event().wait)
        assert anyio.current_time() - began == pytest.approx(10 * HOUR, abs=60)
        assert aevent.current_time() - time.monotonic() == pytest.approx(0, abs=60)

    run(main, clock=autojump())
    assert order == [1, 2, 2.5, 3, 4, 4.5]
