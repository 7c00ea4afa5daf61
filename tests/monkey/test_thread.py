"""`_thread`."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from typing import Any

import pytest

import aevent


def test_a_bare_thread_is_green_and_has_an_identity_of_its_own() -> None:
    seen: list[tuple[int, int, str]] = []
    done = _thread.allocate_lock()
    done.acquire()

    def body(number: int, *, name: str) -> None:
        seen.append((number, _thread.get_ident(), name))
        time.sleep(0.001)
        done.release()

    system = threading.get_native_id()
    ident = _thread.start_new_thread(body, (1,), {"name": "x"})
    assert ident != _thread.get_ident()
    assert done.acquire(timeout=30)
    assert seen == [(1, ident, "x")]
    assert threading.get_native_id() == system


def test_a_thread_that_is_started_under_native_is_real() -> None:
    seen: list[int] = []
    done = threading.Event()

    def body() -> None:
        seen.append(threading.get_native_id())
        done.set()

    with aevent.native():
        _thread.start_new_thread(body, ())
    assert done.wait(30)
    assert seen != [threading.get_native_id()]


def test_what_cannot_be_started_is_refused_as_by_the_original() -> None:
    start: Any = _thread.start_new_thread
    for args in [(1, ()), (print, []), (print, (), 1), (print,)]:
        with pytest.raises(TypeError):
            start(*args)
        with pytest.raises(TypeError):
            start._aevent_orig(*args)


def test_exit_ends_a_bare_thread_silently() -> None:
    after: list[int] = []
    began = threading.Event()

    def body() -> None:
        began.set()
        _thread.exit()
        after.append(1)

    _thread.start_new_thread(body, ())
    assert began.wait(30)
    time.sleep(0.001)
    assert after == []


def test_locks_are_what_the_lock_type_says() -> None:
    lock = _thread.allocate_lock()
    assert isinstance(lock, _thread.LockType)
    assert isinstance(threading.Lock(), _thread.LockType)
    assert type(threading.RLock()) is _thread.RLock
    assert repr(lock).startswith("<unlocked _thread.lock object at ")
    with lock:
        assert repr(lock).startswith("<locked _thread.lock object at ")
        assert lock.locked()
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0.001)
        assert not lock.acquire(True, 0)
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    with pytest.raises(ValueError, match="can't specify a timeout for a non-blocking call"):
        lock.acquire(False, 1)
    with pytest.raises(ValueError, match="timeout value must be a non-negative number"):
        lock.acquire(timeout=-2)
    with pytest.raises(OverflowError, match="timeout value is too large"):
        lock.acquire(timeout=1e100)


def test_a_lock_is_released_by_any_thread() -> None:
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(lock.release, ())
    assert lock.acquire(timeout=30)


def test_an_rlock_is_released_by_its_owner_only() -> None:
    lock = threading.RLock()
    errors: list[str] = []

    def release() -> None:
        assert not lock.acquire(blocking=False)
        try:
            lock.release()
        except RuntimeError as error:
            errors.append(str(error))

    with lock, lock:
        thread = threading.Thread(target=release)
        thread.start()
        thread.join()
    assert errors == ["cannot release un-acquired lock"]


def test_local_data_are_a_green_threads_own() -> None:
    data = threading.local()
    data.value = "main"
    seen: list[object] = []

    def body(number: int) -> None:
        seen.append(getattr(data, "value", None))
        data.value = number
        time.sleep(0.001)
        seen.append(data.value)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [None, None, None, 0, 1, 2]
    assert data.value == "main"
    assert data.__dict__ == {"value": "main"}


def test_the_count_includes_green_threads() -> None:
    before = _thread._count()
    go = threading.Event()
    threads = [threading.Thread(target=go.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    _thread.start_new_thread(go.wait, ())
    assert _thread._count() == before + 4
    go.set()
    for thread in threads:
        thread.join()
    while _thread._count() != before:
        time.sleep(0)


def test_an_exception_that_ends_a_bare_thread_is_reported_as_by_the_original() -> None:
    seen: list[tuple[type, str | None, object]] = []

    def body() -> None:
        try:
            raise LookupError("expected")
        finally:
            done.set()

    def hook(args: Any) -> None:
        seen.append((args.exc_type, args.err_msg, args.object))

    former, sys.unraisablehook = sys.unraisablehook, hook
    try:
        done = threading.Event()
        _thread.start_new_thread(body, ())
        done.wait()
        with aevent.native():
            done = threading.Event()
            _thread.start_new_thread(body, ())
            done.wait()
        while len(seen) < 2:
            time.sleep(0)
    finally:
        sys.unraisablehook = former
    assert seen[0] == seen[1]
    assert seen[0][0] is LookupError
    assert seen[0][1] is not None and "in thread started by" in seen[0][1]
