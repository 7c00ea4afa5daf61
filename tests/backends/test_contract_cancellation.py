"""Cancellation reaches a synchronous call wherever it is parked."""

from __future__ import annotations

import queue
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

import aevent

Run = Callable[..., Any]
Settle = Callable[[], Any]
#: Makes what the call needs, and returns the call.
Prepare = Callable[[ExitStack], Callable[[], object]]

CALLS: dict[str, Prepare] = {}


def blocks(prepare: Prepare) -> Prepare:
    """Puts it into the table: the call that it returns waits for ever."""
    CALLS[prepare.__name__] = prepare
    return prepare


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    stack.enter_context(left)
    stack.enter_context(right)
    return left, right


def fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        sock.setblocking(True)


@blocks
def sleep(stack: ExitStack) -> Callable[[], object]:
    return lambda: time.sleep(3600)


@blocks
def recv(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: left.recv(1)


@blocks
def recv_with_timeout(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    left.settimeout(3600)
    return lambda: left.recv(1)


@blocks
def recv_into(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: left.recv_into(bytearray(1))


@blocks
def recvfrom(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: left.recvfrom(1)


@blocks
def recvmsg(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: left.recvmsg(1)


@blocks
def makefile_readline(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    file = stack.enter_context(left.makefile("rb"))
    return lambda: file.readline()


@blocks
def send(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    fill(left)
    return lambda: left.send(bytes(65536))


@blocks
def sendall(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: left.sendall(bytes(1 << 24))


@blocks
def accept(stack: ExitStack) -> Callable[[], object]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return lambda: listener.accept()


@blocks
def connect(stack: ExitStack) -> Callable[[], object]:
    # A full backlog: further connections are left waiting.
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind("")
    listener.listen(0)
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(listener.getsockname())
    late = stack.enter_context(socket.socket(socket.AF_UNIX))
    return lambda: late.connect(listener.getsockname())


@blocks
def lock_acquire(stack: ExitStack) -> Callable[[], object]:
    lock = threading.Lock()
    lock.acquire()
    # Called in the reverse order.
    stack.callback(_is_free, lock)
    stack.callback(lock.release)
    return lambda: lock.acquire()


@blocks
def lock_acquire_with_timeout(stack: ExitStack) -> Callable[[], object]:
    lock = threading.Lock()
    lock.acquire()
    # Called in the reverse order.
    stack.callback(_is_free, lock)
    stack.callback(lock.release)
    return lambda: lock.acquire(timeout=3600)


@blocks
def lock_with(stack: ExitStack) -> Callable[[], object]:
    lock = threading.Lock()
    lock.acquire()
    # Called in the reverse order.
    stack.callback(_is_free, lock)
    stack.callback(lock.release)

    def call() -> None:
        with lock:
            pass

    return call


@blocks
def rlock_acquire(stack: ExitStack) -> Callable[[], object]:
    lock = threading.RLock()
    lock.acquire()
    # Called in the reverse order.
    stack.callback(_is_free, lock)
    stack.callback(lock.release)
    return lambda: lock.acquire()


@blocks
def semaphore_acquire(stack: ExitStack) -> Callable[[], object]:
    semaphore = threading.Semaphore(0)
    # Called in the reverse order.
    stack.callback(_is_free, semaphore)
    stack.callback(semaphore.release)
    return lambda: semaphore.acquire()


@blocks
def event_wait(stack: ExitStack) -> Callable[[], object]:
    return threading.Event().wait


@blocks
def event_wait_with_timeout(stack: ExitStack) -> Callable[[], object]:
    event = threading.Event()
    return lambda: event.wait(3600)


def _condition_call(stack: ExitStack, condition: threading.Condition) -> Callable[[], object]:
    stack.callback(_is_free, condition)

    def call() -> None:
        with condition:
            try:
                condition.wait()
            finally:
                # It is ours again, or leaving the `with` would raise.
                assert condition._is_owned()  # type: ignore[attr-defined]

    return call


@blocks
def condition_wait(stack: ExitStack) -> Callable[[], object]:
    return _condition_call(stack, threading.Condition())


@blocks
def condition_wait_with_lock(stack: ExitStack) -> Callable[[], object]:
    return _condition_call(stack, threading.Condition(threading.Lock()))


@blocks
def condition_wait_for(stack: ExitStack) -> Callable[[], object]:
    condition = threading.Condition()
    stack.callback(_is_free, condition)

    def call() -> None:
        with condition:
            condition.wait_for(lambda: False)

    return call


@blocks
def barrier_wait(stack: ExitStack) -> Callable[[], object]:
    return threading.Barrier(2).wait


@blocks
def queue_get(stack: ExitStack) -> Callable[[], object]:
    items: queue.Queue[int] = queue.Queue()
    stack.callback(_is_intact, items)
    return items.get


@blocks
def queue_get_with_timeout(stack: ExitStack) -> Callable[[], object]:
    items: queue.Queue[int] = queue.Queue()
    return lambda: items.get(timeout=3600)


@blocks
def queue_put(stack: ExitStack) -> Callable[[], object]:
    items: queue.Queue[int] = queue.Queue(1)
    items.put(1)
    stack.callback(_is_empty, items)
    stack.callback(items.get_nowait)
    return lambda: items.put(2)


@blocks
def queue_join(stack: ExitStack) -> Callable[[], object]:
    items: queue.Queue[int] = queue.Queue()
    items.put(1)
    return items.join


@blocks
def simple_queue_get(stack: ExitStack) -> Callable[[], object]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    stack.callback(_is_intact, items)
    return items.get


@blocks
def thread_join(stack: ExitStack) -> Callable[[], object]:
    def call() -> None:
        thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
        thread.start()
        thread.join()

    return call


@blocks
def system_thread_join(stack: ExitStack) -> Callable[[], object]:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    stack.callback(thread.join)
    stack.callback(event.set)
    return thread.join


@blocks
def select_select(stack: ExitStack) -> Callable[[], object]:
    left, right = pair(stack)
    return lambda: select.select([left, right], [], [])


@blocks
def select_with_timeout(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    return lambda: select.select([left], [], [], 3600)


@blocks
def poll(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    poller = select.poll()
    poller.register(left, select.POLLIN)
    return poller.poll


@blocks
def epoll(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    poller = stack.enter_context(select.epoll())
    poller.register(left, select.EPOLLIN)
    return poller.poll


@blocks
def selector(stack: ExitStack) -> Callable[[], object]:
    left, _ = pair(stack)
    default = stack.enter_context(selectors.DefaultSelector())
    default.register(left, selectors.EVENT_READ)
    return default.select


@blocks
def offload(stack: ExitStack) -> Callable[[], object]:
    event = threading.Event()
    stack.callback(event.set)
    return lambda: aevent.offload(event.wait)


@blocks
def await_sleep_forever(stack: ExitStack) -> Callable[[], object]:
    return lambda: aevent.await_(aevent.sleep_forever())


@blocks
def await_sync_code(stack: ExitStack) -> Callable[[], object]:
    async def sleep_in_sync_code() -> None:
        time.sleep(3600)

    return lambda: aevent.await_(sleep_in_sync_code())


@blocks
def await_event(stack: ExitStack) -> Callable[[], object]:
    event = aevent.Event()
    return lambda: aevent.await_(event.async_wait())


def _is_free(lock: Any) -> None:
    assert lock.acquire(False), "the cancelled call has kept or lost it"
    lock.release()


def _is_empty(items: queue.Queue[Any]) -> None:
    assert items.empty(), "the cancelled call has put its item"


def _is_intact(items: Any) -> None:
    items.put(1)
    assert items.get_nowait() == 1, "the cancelled call has taken an item"


class Body:
    """Makes a blocking call and notes what becomes of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.log: list[str] = []

    def sync(self) -> None:
        self.log.append("begin")
        try:
            self.call()
            self.log.append("returned")
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        finally:
            self.log.append("finally")

    async def in_async(self) -> None:
        self.sync()


CALL_NAMES = pytest.mark.parametrize("name", list(CALLS))


@CALL_NAMES
@pytest.mark.parametrize("kind", ["green", "async"])
def test_cancelling_a_scope_reaches(run: Run, settle: Settle, name: str, kind: str) -> None:
    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(body.sync if kind == "green" else body.in_async)
            await settle()
            assert body.log == ["begin"], "it does not block"
            scope.cancel()
        assert not group.cancel_scope.cancel_called
        body.log.append("left")

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(main)
        kinds = {"Cancelled", "CancelledError"} if kind == "async" else {"Cancelled"}
        assert body.log[1] in kinds
        assert [body.log[0], *body.log[2:]] == ["begin", "finally", "left"]


@CALL_NAMES
def test_a_deadline_reaches(run: Run, name: str) -> None:
    def main() -> None:
        with aevent.move_on_after(0.003) as scope:
            body.sync()
        assert scope.cancelled_caught
        body.log.append("left")

    def in_thread() -> None:
        # In a thread: main is the main thread, which owns the RLock of the table.
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(in_thread)
        assert body.log == ["begin", "Cancelled", "finally", "left"]


@CALL_NAMES
def test_leaving_the_runner_cancels_a_daemon_in(run: Run, settle_sync: Any, name: str) -> None:
    def main() -> None:
        threading.Thread(target=body.sync, daemon=True).start()
        settle_sync()
        assert body.log == ["begin"]

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run(main)
        assert body.log == ["begin", "Cancelled", "finally"]


@CALL_NAMES
@pytest.mark.parametrize("kind", ["green", "async"])
def test_cancellation_by_the_host_reaches(
    run_host: Run, settle: Settle, name: str, kind: str
) -> None:
    async def green() -> None:
        async with aevent.TaskGroup() as group:
            group.spawn(body.sync)

    async def in_async() -> None:
        await aevent.per_task()
        body.sync()

    async def main() -> None:
        async with aevent.runner():
            async with anyio.create_task_group() as group:
                group.start_soon(green if kind == "green" else in_async)
                await settle()
                assert body.log == ["begin"], "it does not block"
                group.cancel_scope.cancel()
            body.log.append("left")

    with ExitStack() as stack:
        body = Body(CALLS[name](stack))
        run_host(main)
        kinds = {"Cancelled", "CancelledError"} if kind == "async" else {"Cancelled"}
        assert body.log[1] in kinds
        assert [body.log[0], *body.log[2:]] == ["begin", "finally", "left"]


def test_a_second_wait_of_cancelled_code_raises_again(run: Run, settle: Settle) -> None:
    found: list[str] = []

    def green() -> None:
        left, right = socket.socketpair()
        lock = threading.Lock()
        lock.acquire()
        with left, right:
            calls: list[Callable[[Any], Any]]
            calls = [time.sleep, left.recv, threading.Event().wait, lock.acquire]
            for call in calls:
                try:
                    call(1)
                except aevent.Cancelled:
                    found.append(call.__name__)
        time.sleep(0)

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(green)
            await settle()
            scope.cancel()

    run(main)
    assert len(found) == 4


def test_calls_that_need_not_wait_succeed_in_cancelled_code(run: Run) -> None:
    def main() -> None:
        left, right = socket.socketpair()
        event = threading.Event()
        event.set()
        with left, right, aevent.CancelScope() as scope:
            scope.cancel()
            # As a lock that must be taken in a `finally` block: what need not wait is done.
            with threading.Lock():
                assert event.wait()
            time.sleep(0)
        assert scope.cancelled_caught

    run(main)


def test_name_look_ups_are_left_when_cancelled(
    run: Run, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aevent._monkey import socket as patched

    release = threading.Event()

    def slow(*args: Any) -> list[Any]:
        release.wait()
        return []

    monkeypatch.setitem(patched._orig, "getaddrinfo", slow)
    body = Body(lambda: socket.getaddrinfo("aevent.invalid", 80))

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(body.sync)
            await settle()
            assert body.log == ["begin"]
            scope.cancel()

    try:
        run(main)
    finally:
        release.set()
    assert body.log == ["begin", "Cancelled", "finally"]


def test_a_call_that_need_not_wait_never_raises_it(run: Run) -> None:
    log: list[str] = []
    left, right = socket.socketpair()

    def short_calls() -> None:
        lock = threading.Lock()
        for call in (lock.acquire, lock.release, threading.Event().set, lambda: left.send(b"x")):
            # Its time slice is over: it lets others run, if anything does.
            end = time.perf_counter() + 0.03
            while time.perf_counter() < end:
                pass
            call()
            log.append("done")

    async def waits() -> None:
        try:
            time.sleep(3600)
        finally:
            short_calls()

    async def main() -> None:
        async with aevent.TaskGroup() as group:
            scope = group.spawn(waits)
            await aevent.sleep(0.001)
            scope.cancel()

    with left, right:
        run(main)
    assert log == ["done"] * 4
