"""Nobody keeps the others from running for long, as long as they call anything at all."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable

import pytest

import aevent
from aevent._backend import HostBackend
from tests.backends.contract import Run, in_os_thread

#: Nobody is starved for longer than this, else the test fails instead of hanging.
PATIENCE = 30.0


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Others:
    """Tasks of each kind that wait for a timer, or only for their turn, and count their turns."""

    def __init__(self) -> None:
        self.turns = {"green timer": 0, "async timer": 0, "green turn": 0, "async turn": 0}

    def start(self, group: aevent.TaskGroup) -> None:
        group.spawn(self.green, "green timer", 0.001)
        group.spawn(self.green, "green turn", 0)
        group.spawn(self.in_async, "async timer", 0.001)
        group.spawn(self.in_async, "async turn", 0)

    def green(self, name: str, seconds: float) -> None:
        while True:
            time.sleep(seconds)
            self.turns[name] += 1

    async def in_async(self, name: str, seconds: float) -> None:
        while True:
            await aevent.sleep(seconds)
            self.turns[name] += 1

    def wait_for_turns(self, step: Callable[[], object], turns: int = 3) -> None:
        """Repeats `step`, which never waits, until each of them had some turns."""
        before = dict(self.turns)
        give_up = time.perf_counter() + PATIENCE
        while any(self.turns[name] - before[name] < turns for name in before):
            for _ in range(100):
                step()
            if time.perf_counter() > give_up:
                pytest.fail(f"starved: {before} -> {self.turns}")


def ping() -> Callable[[], object]:
    left, right = socket.socketpair()

    def step() -> None:
        left.sendall(b"x")
        right.recv(1)

    return step


def simple_queue() -> Callable[[], object]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()

    def step() -> None:
        items.put(1)
        items.get()

    return step


def full_queue() -> Callable[[], object]:
    items: queue.Queue[int] = queue.Queue()

    def step() -> None:
        items.put(1)
        items.get()

    return step


def lock() -> Callable[[], object]:
    held = threading.Lock()

    def step() -> None:
        with held:
            pass

    return step


def event() -> Callable[[], object]:
    ready = threading.Event()
    ready.set()
    return lambda: ready.wait()


def sleep_zero() -> Callable[[], object]:
    return lambda: time.sleep(0)


@pytest.mark.parametrize("make", [ping, simple_queue, full_queue, lock, event, sleep_zero])
@pytest.mark.parametrize("kind", ["green", "async"])
def test_a_task_whose_calls_need_not_wait_does_not_starve_others(
    run: Run, make: Callable[[], Callable[[], object]], kind: str
) -> None:
    others = Others()

    async def main() -> None:
        async with aevent.TaskGroup() as group:

            def busy() -> None:
                step = make()
                try:
                    others.wait_for_turns(step)
                finally:
                    group.cancel_scope.cancel()
                    for cell in step.__closure__ or ():
                        if isinstance(cell.cell_contents, socket.socket):
                            cell.cell_contents.close()

            async def busy_async() -> None:
                busy()

            others.start(group)
            await aevent.sleep(0.001)
            group.spawn(busy if kind == "green" else busy_async)

    run(main)


def test_many_threads_that_compute_do_not_stall_a_heartbeat(run: Run) -> None:
    beats = 0
    seen: list[int] = []

    async def heartbeat() -> None:
        nonlocal beats
        while True:
            await aevent.sleep(0.001)
            beats += 1

    def worker() -> None:
        seen.append(beats)
        compute(0.004)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(heartbeat)
            await aevent.sleep(0.002)
            threads = [threading.Thread(target=worker) for _ in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            group.cancel_scope.cancel()

    run(main)
    # Back to back they would all see the same beat. A turn may hold several of them.
    assert len(set(seen)) >= 10


def test_io_is_polled_between_threads_that_compute(run: Run) -> None:
    left, right = socket.socketpair()
    seen: list[int] = []
    received = 0

    def reader() -> None:
        nonlocal received
        while left.recv(1):
            received += 1

    def worker() -> None:
        seen.append(received)
        compute(0.004)
        right.send(b"x")

    def main() -> None:
        consumer = threading.Thread(target=reader)
        consumer.start()
        time.sleep(0.001)
        threads = [threading.Thread(target=worker) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        right.close()
        consumer.join()

    with left, right:
        run(main)
    assert len(set(seen)) >= 10


def test_green_threads_that_are_always_ready_leave_the_host_its_turns(
    run: Run, backend: str
) -> None:
    if backend == "native":
        pytest.skip("there is no host")
    import anyio

    stop = False

    def spin() -> None:
        while not stop:
            time.sleep(0)

    async def main() -> None:
        nonlocal stop
        async with aevent.TaskGroup() as group:
            for _ in range(20):
                group.spawn(spin)
            begin = time.perf_counter()
            for _ in range(20):
                await anyio.sleep(0)
            await anyio.sleep(0.001)
            stop = True
            # 21 turns, each bounded to some milliseconds.
            assert time.perf_counter() - begin < PATIENCE

    run(main)


def test_green_threads_that_talk_to_each_other_do_not_need_the_host(run: Run, backend: str) -> None:
    if backend == "native":
        pytest.skip("there is no host")
    import anyio

    messages = 1000
    left, right = socket.socketpair()
    done = False

    def ask() -> None:
        nonlocal done
        for _ in range(messages):
            left.sendall(b"?")
            left.recv(1)
        done = True

    def answer() -> None:
        for _ in range(messages):
            right.sendall(right.recv(1))

    async def main() -> None:
        turns = 0
        async with aevent.TaskGroup() as group:
            group.spawn(ask)
            group.spawn(answer)
            while not done:
                await anyio.sleep(0)
                turns += 1
        # One for each slice of some milliseconds, in which hundreds of messages are sent.
        assert 0 < turns < messages

    with left, right:
        run(main)


def test_the_host_has_a_turn_for_each_of_the_green_threads(
    run: Run, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However often the scheduler's descriptor becomes readable in between.
    if backend == "native":
        pytest.skip("there is no host")
    tick = HostBackend.tick
    ticks = turns = 0

    def counted(host: HostBackend) -> bool:
        nonlocal ticks
        ticks += 1
        return tick(host)

    monkeypatch.setattr(HostBackend, "tick", counted)

    def spin() -> None:
        while ticks < 300:
            time.sleep(0)

    def wait() -> None:
        while ticks < 300:
            time.sleep(0.0002)

    async def main() -> None:
        nonlocal turns
        async with aevent.TaskGroup() as group:
            group.spawn(spin)
            group.spawn(wait)
            while ticks < 300:
                await aevent.sleep(0)
                turns += 1

    run(main)
    assert turns > 200


def test_host_tasks_that_are_always_ready_leave_green_threads_their_turns(
    run: Run, backend: str
) -> None:
    if backend == "native":
        pytest.skip("there is no host")
    import anyio

    turns = 0

    def green() -> None:
        nonlocal turns
        while turns < 20:
            time.sleep(0)
            turns += 1

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(green)
            for _ in range(1000):
                await anyio.sleep(0)
            assert turns == 20

    run(main)


def test_equal_tasks_get_equal_turns(run: Run) -> None:
    order: list[int] = []
    waiting: list[int] = []
    begin = threading.Event()

    def worker(number: int) -> None:
        waiting.append(number)
        begin.wait()
        for _ in range(5):
            order.append(number)
            time.sleep(0)

    def main() -> None:
        threads = [threading.Thread(target=worker, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while waiting != [0, 1, 2, 3]:
            time.sleep(0)
        time.sleep(0)
        begin.set()
        for thread in threads:
            thread.join()

    run(main)
    # Who waited for the event first is first: whoever's time slice was over has let another do so.
    first = order[:4]
    assert sorted(first) == [0, 1, 2, 3]
    assert order == first * 5


def test_a_real_thread_gets_the_interpreter_while_green_threads_only_yield(run: Run) -> None:
    wanted = 50
    taken = 0

    def in_real_thread() -> None:
        nonlocal taken
        for _ in range(wanted):
            # Gives the interpreter away, and wants it back.
            time.sleep(0.0001)
            taken += 1

    def green(give_up: float) -> None:
        while taken < wanted:
            time.sleep(0)
            # In the process's own time: what else the machine does delays nobody here.
            if time.process_time() > give_up:
                pytest.fail(f"it had the interpreter {taken} times in 2 s of work")

    def main() -> None:
        thread = in_os_thread(in_real_thread)
        give_up = time.process_time() + 2
        with aevent.TaskGroup() as group:
            for _ in range(50):
                group.spawn(green, give_up)
        thread.join()

    run(main)
