"""`multiprocessing`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing import resource_sharer
from multiprocessing.pool import Pool, ThreadPool
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import TICKS, heartbeat

fork = multiprocessing.get_context("fork")


def _spawn(*functions: Any) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- locks of processes ---


def test_locks_of_processes_exclude_green_threads() -> None:
    for kind in (fork.Lock, fork.RLock, fork.Semaphore, fork.BoundedSemaphore):
        lock: Any = kind()
        inside: list[int] = []
        most: list[int] = []

        def work(lock: Any = lock, inside: list[int] = inside, most: list[int] = most) -> None:
            with lock:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

        _spawn(*[work] * 4)
        assert most == [1, 1, 1, 1]


def test_a_recursive_lock_belongs_to_a_green_thread() -> None:
    lock = fork.RLock()
    found: list[Any] = []

    def other() -> None:
        found.append(lock.acquire(False))
        with pytest.raises(AssertionError, match="attempt to release recursive lock not owned"):
            lock.release()

    with lock:
        assert lock.acquire(False)
        assert lock.acquire(timeout=0)
        lock.release()
        lock.release()
        _spawn(other)
        assert found == [False]
        assert "MainProcess" in repr(lock)
    _spawn(lambda: found.append(lock.acquire(False)), lambda: None)
    assert found == [False, True]
    assert "SomeOther" in repr(lock)


def test_a_release_that_is_too_much() -> None:
    lock = fork.Lock()
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    with pytest.raises(AssertionError):
        fork.RLock().release()


def test_a_lock_that_another_process_holds_is_waited_for() -> None:
    lock, ready, go = fork.Lock(), fork.Event(), fork.Event()

    def hold() -> None:
        with lock:
            ready.set()
            go.wait()

    process = fork.Process(target=hold)
    process.start()
    ready.wait()
    with heartbeat() as heart:
        assert not lock.acquire(timeout=0.005)
        heart.after_ticks(go.set)
        with lock:
            assert heart.ticks >= TICKS
    process.join()
    assert process.exitcode == 0


def test_many_wait_for_one_lock_with_one_thread() -> None:
    lock = fork.Lock()
    done: list[int] = []

    def work(number: int) -> None:
        with lock:
            done.append(number)

    lock.acquire()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    with heartbeat() as heart:
        heart.after_ticks(lock.release)
        for thread in threads:
            thread.join()
    assert sorted(done) == list(range(100))


def test_a_cancelled_wait_takes_nothing() -> None:
    lock = fork.Lock()
    lock.acquire()
    with aevent.move_on_after(0.005) as scope:
        lock.acquire()
    assert scope.cancelled_caught
    lock.release()
    # The thread that was waiting on the task's behalf gives back what it may have got.
    assert lock.acquire(timeout=30)
    time.sleep(0.001)
    assert not lock.acquire(False)
    lock.release()


def test_a_condition_and_an_event_and_a_barrier_of_processes() -> None:
    condition, event, barrier = fork.Condition(), fork.Event(), fork.Barrier(2)

    def child() -> None:
        event.wait()
        with condition:
            condition.notify_all()
        barrier.wait()

    process = fork.Process(target=child)
    process.start()
    with heartbeat() as heart:
        assert not event.wait(0.001)
        with condition:
            heart.after_ticks(event.set)
            assert condition.wait(30)
        barrier.wait(30)
        process.join()
    assert heart.ticks >= TICKS


def test_the_class_of_a_semaphore_has_the_originals_interface() -> None:
    import _multiprocessing

    kind: Any = _multiprocessing.SemLock  # type: ignore[attr-defined]
    assert isinstance(fork.Lock()._semlock, kind._aevent_orig)  # type: ignore[attr-defined]
    name = f"/aevent-{os.getpid()}"
    original = kind._aevent_orig(0, 1, 1, name, False)
    try:
        ours = kind(0, 1, 1, name + "-2", True)
        assert (ours.kind, ours.maxvalue) == (original.kind, original.maxvalue)
        # Whatever of the two a process has, it can have another one's.
        rebuilt = kind._rebuild(original.handle, original.kind, original.maxvalue, name)
        assert rebuilt.acquire() and rebuilt.acquire()
        assert (rebuilt._count(), rebuilt._is_mine()) == (2, True)
        rebuilt._after_fork()
        assert not rebuilt._is_mine()
    finally:
        _multiprocessing.sem_unlink(name)  # type: ignore[attr-defined]


# --- processes ---


def test_a_process_is_joined_and_its_queue_read_while_others_run() -> None:
    go, items, simple = fork.Event(), fork.Queue(), fork.SimpleQueue()

    def child() -> None:
        go.wait()
        # In the child there are green threads, too; those that are no daemons are waited for.
        threading.Thread(target=lambda: (time.sleep(0.01), simple.put("thread"))).start()
        items.put("main")

    with heartbeat() as heart:
        process = fork.Process(target=child)
        process.start()
        heart.after_ticks(go.set)
        assert [items.get(), simple.get()] == ["main", "thread"]
        process.join()
    assert process.exitcode == 0


def test_join_with_a_timeout() -> None:
    go = fork.Event()
    process = fork.Process(target=go.wait)
    process.start()
    with heartbeat() as heart:
        process.join(0.01)
        assert heart.ticks
        assert process.is_alive()
        heart.after_ticks(go.set)
        process.join()
    assert process.exitcode == 0


def test_both_ends_of_a_pipe() -> None:
    for duplex in (True, False):
        reader, writer = fork.Pipe(duplex)
        with reader, writer, heartbeat() as heart:
            big = os.urandom(1_000_000)
            got: list[bytes] = []
            receive = lambda got=got, reader=reader: got.append(reader.recv_bytes())  # noqa: E731
            receiver = threading.Thread(target=receive)
            heart.after_ticks(receiver.start)
            writer.send_bytes(big)
            receiver.join()
            assert heart.ticks >= TICKS
            heart.after_ticks(lambda writer=writer: writer.send("x"))  # type: ignore[misc]
            assert not reader.poll(0)
            assert reader.recv() == "x"
            assert got == [big]
            assert not reader.poll(0.001)


def test_a_connection_is_sent_through_another() -> None:
    reader, writer = fork.Pipe()
    here, there = fork.Pipe()
    with reader, writer, here, there, heartbeat() as heart:
        writer.send(there)
        with reader.recv() as received:
            heart.after_ticks(lambda: here.send("x"))
            assert received.recv() == "x"
        assert heart.ticks >= TICKS
    # The thread that hands it out blocks all signals: for itself, not for the program.
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    resource_sharer.stop(timeout=30)


def test_a_simple_queue_has_many_readers() -> None:
    items = fork.SimpleQueue()
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(items.get())) for _ in range(5)]
    for thread in threads:
        thread.start()
    with heartbeat() as heart:
        heart.after_ticks(lambda: [items.put(number) for number in range(5)])
        for thread in threads:
            thread.join()
    assert sorted(got) == [0, 1, 2, 3, 4]


def _never_ends(begun: Any) -> None:
    begun.set()
    while True:
        time.sleep(3600)


def test_what_is_cancelled_in_a_pool_leaves_no_process() -> None:
    begun = fork.Event()

    def work() -> None:
        with fork.Pool(2, initializer=_never_ends, initargs=(begun,)) as pool:
            pool.map(abs, [1, 2])

    with aevent.TaskGroup() as group:
        scope = group.spawn(work)
        begun.wait()
        scope.cancel()
    assert multiprocessing.active_children() == []


def test_what_is_cancelled_beside_a_manager_leaves_no_process() -> None:
    with aevent.CancelScope() as scope, fork.Manager() as manager:
        shared = manager.list([1])
        assert shared[0] == 1
        scope.cancel()
        time.sleep(3600)
    assert scope.cancelled_caught
    assert multiprocessing.active_children() == []


_go = fork.Event()


def _wait_to_go() -> bool:
    return _go.wait()


def test_a_pool_of_processes() -> None:
    with heartbeat() as heart, fork.Pool(2) as pool:
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        assert list(pool.imap_unordered(abs, [-1])) == [1]
        _go.clear()
        heart.after_ticks(_go.set)
        assert pool.apply_async(_wait_to_go).get()
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))
        pool.close()
        pool.join()


def test_a_manager() -> None:
    with heartbeat() as heart, fork.Manager() as manager:
        shared, items = manager.dict(), manager.Queue()
        shared["a"] = 1
        heart.after_ticks(lambda: items.put("x"))
        assert items.get() == "x"
        assert dict(shared) == {"a": 1}
    assert heart.ticks >= TICKS


def test_a_pool_of_threads_has_green_ones() -> None:
    here = threading.get_native_id()
    with ThreadPool(3) as pool:
        assert set(pool.map(lambda _: threading.get_native_id(), range(6))) == {here}
        with heartbeat() as heart:
            pool.map(lambda _: time.sleep(0.01), range(6), chunksize=1)
        assert heart.ticks
        pool.close()
        pool.join()
    assert isinstance(pool, Pool)


def test_children_that_are_spawned(fresh_ok: Any, backend: str) -> None:
    """They begin as plain processes; what they do is up to their main module."""
    script = """
import sys
import aevent

def of_child(lock, items):
    with lock:
        items.put("aevent" in sys.modules and aevent._run.chosen_backend)

if __name__ == "__main__":
    aevent.setup(sys.argv[1])
import multiprocessing

def main():
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        lock, rlock, items = context.Lock(), context.RLock(), context.Queue()
        for each in (lock, rlock):
            process = context.Process(target=of_child, args=(each, items))
            process.start()
            assert items.get() is None
            process.join()
            assert process.exitcode == 0
        with context.Manager() as manager:
            event = manager.Event()
            event.set()
            assert event.is_set()
        with context.Pool(1) as pool:
            assert pool.map(abs, [-1]) == [1]

if __name__ == "__main__":
    aevent.run(main)
"""
    fresh_ok(script, backend)


def test_what_a_program_leaves_ends_with_it(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, warnings
# Since 3.12, and rightly: what is left feeds its queue in a real thread.
warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)
import aevent
aevent.setup(sys.argv[1])
import multiprocessing, threading, time
from multiprocessing.pool import ThreadPool
multiprocessing.set_start_method("fork")

def main():
    global left
    left = ThreadPool(2), multiprocessing.Queue()
    left[0].apply_async(time.sleep, (100,))
    assert left[0].apply(abs, (-1,)) == 1
    left[1].put("in the queue")

aevent.run(main)
assert left[1].get() == "in the queue"
try:
    left[0].apply(abs, (-1,))
except ValueError as error:
    print(error)

def child(items):
    items.put("child")
    items.put("x" * 1_000_000)

def main():
    items = multiprocessing.Queue()
    process = multiprocessing.Process(target=child, args=(items,))
    process.start()
    assert items.get() == "child"
    assert len(items.get()) == 1_000_000
    process.join()

aevent.run(main)
"""
    assert fresh_ok(script, backend) == "Pool not running\n"


def test_a_lock_class_is_pickled_for_a_process_that_is_not_patched() -> None:
    for kind in (threading.Lock, threading.RLock):
        assert pickle.loads(pickle.dumps(kind)) is kind
        module, _, name = _global_of(pickle.dumps(kind, 3)).partition(" ")
        assert hasattr(sys.modules[module], name)
    if sys.version_info < (3, 13):
        assert _global_of(pickle.dumps(threading.Lock, 3)) == "_thread allocate_lock"


def _global_of(pickled: bytes) -> str:
    module, name = pickled.partition(b"c")[2].decode().splitlines()[:2]
    return f"{module} {name}"
