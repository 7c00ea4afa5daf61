"""Every call of synchronous code that parks, by name: what the tests of cancellation cancel."""

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

import aevent

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


def _is_free(lock: Any) -> None:
    assert lock.acquire(False), "the cancelled call has kept or lost it"
    lock.release()


def _is_empty(items: queue.Queue[Any]) -> None:
    assert items.empty(), "the cancelled call has put its item"


def _is_intact(items: Any) -> None:
    items.put(1)
    assert items.get_nowait() == 1, "the cancelled call has taken an item"


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
