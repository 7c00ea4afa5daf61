"""`sys`: trace and profile functions."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest


def test_a_trace_function_is_the_threads_that_set_it() -> None:
    seen: dict[str, set[str]] = {"first": set(), "second": set()}

    def called() -> None:
        time.sleep(0)

    def body(name: str) -> None:
        def trace(frame: Any, event: str, argument: object) -> None:
            seen[name].add(threading.current_thread().name)

        sys.settrace(trace)
        for _ in range(3):
            called()
            assert sys.gettrace() is trace
        sys.settrace(None)

    def untraced() -> None:
        for _ in range(5):
            called()
            assert sys.gettrace() is None

    before = sys.gettrace()
    threads = [
        threading.Thread(target=body, args=("first",), name="first"),
        threading.Thread(target=body, args=("second",), name="second"),
        threading.Thread(target=untraced, name="untraced"),
    ]
    for thread in threads:
        thread.start()
    for _ in range(5):
        called()
        assert sys.gettrace() is before
    for thread in threads:
        thread.join()
    assert seen == {"first": {"first"}, "second": {"second"}}
    assert sys.gettrace() is before


def test_a_profile_function_is_the_threads_that_set_it() -> None:
    profiled: set[str] = set()

    def profile(frame: Any, event: str, argument: object) -> None:
        profiled.add(threading.current_thread().name)

    def body() -> None:
        sys.setprofile(profile)
        time.sleep(0)
        assert sys.getprofile() is profile

    threads = [
        threading.Thread(target=body, name="body"),
        threading.Thread(target=time.sleep, args=(0,)),
    ]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0)
        assert sys.getprofile() is None
    for thread in threads:
        thread.join()
    assert profiled == {"body"}
    assert sys.getprofile() is None


def test_a_thread_keeps_its_function_while_it_is_parked_and_others_run() -> None:
    go = threading.Event()
    lines: list[int] = []

    def trace(frame: Any, event: str, argument: object) -> Any:
        if frame.f_code is not body.__code__ and frame.f_code is not after.__code__:
            return None
        lines.append(frame.f_lineno)
        return trace

    def after() -> None:
        pass

    def body() -> None:
        sys.settrace(trace)
        go.wait()
        after()

    thread = threading.Thread(target=body)
    thread.start()
    time.sleep(0)
    assert lines == []
    after()
    go.set()
    thread.join()
    assert set(lines) == {after.__code__.co_firstlineno, after.__code__.co_firstlineno + 1}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
@pytest.mark.parametrize("what", ["trace", "profile"])
def test_what_is_set_for_all_threads_is_found_by_those_that_wait(
    fresh_ok: Any, backend: str, what: str
) -> None:
    out = fresh_ok(
        """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time

def for_all(*args):
    pass

def own(*args):
    pass

def earlier(name, first):
    if first is not None:
        set_own(first)
    go.wait()
    seen[name] = get_own()

def later():
    seen["later"] = get_own()

def main():
    threads = [
        threading.Thread(target=earlier, args=("has none", None)),
        threading.Thread(target=earlier, args=("has its own", own)),
    ]
    for thread in threads:
        thread.start()
        time.sleep(0)
    set_for_all(for_all)
    assert get_own() is for_all
    set_hook(None)
    threads.append(threading.Thread(target=later))
    threads[-1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert seen == {"has none": for_all, "has its own": for_all, "later": None}, seen
    seen.clear()
    go.clear()
    # For oneself again, which is nobody else's business.
    thread = threading.Thread(target=earlier, args=("has its own", own))
    thread.start()
    time.sleep(0)
    go.set()
    thread.join()
    assert seen == {"has its own": own}
    set_for_all(None)
    assert get_own() is None

seen = {}
go = threading.Event()
set_own, get_own = getattr(sys, f"set{sys.argv[2]}"), getattr(sys, f"get{sys.argv[2]}")
set_hook = getattr(threading, f"set{sys.argv[2]}")
set_for_all = getattr(threading, f"set{sys.argv[2]}_all_threads")
aevent.run(main)
print("done")
""",
        backend,
        what,
    )
    assert out == "done\n"


def test_the_main_function_has_what_was_set_before_it(fresh_ok: Any, backend: str) -> None:
    out = fresh_ok(
        """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time

def trace(frame, event, argument):
    pass

def body():
    assert sys.gettrace() is None
    sys.settrace(lambda *args: None)
    time.sleep(0.001)

def main():
    assert sys.gettrace() is trace
    threading.settrace(None)
    other = lambda *args: None
    sys.settrace(other)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert sys.gettrace() is other
    sys.settrace(trace)

sys.settrace(trace)
aevent.run(main)
assert sys.gettrace() is trace
sys.settrace(None)
print("done")
""",
        backend,
    )
    assert out == "done\n"


def test_what_is_no_function_is_refused_as_by_the_original() -> None:
    with pytest.raises(TypeError):
        sys.settrace()  # type: ignore[call-arg]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="one profiler at a time, for all threads")
def test_cprofile_sees_the_thread_that_has_enabled_it() -> None:
    import cProfile

    def called() -> None:
        time.sleep(0)

    def calls(times: int) -> None:
        for _ in range(times):
            called()

    def counted(times: int) -> int:
        with cProfile.Profile() as profiler:
            calls(times)
        counts = [s.callcount for s in profiler.getstats() if s.code == called.__code__]
        return sum(counts)

    found: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda times=times: found.setdefault(times, counted(times)))
        for times in (3, 5)
    ]
    threads.append(threading.Thread(target=calls, args=(7,)))
    for thread in threads:
        thread.start()
    assert counted(4) == 4
    for thread in threads:
        thread.join()
    assert found == {3: 3, 5: 5}
    assert sys.getprofile() is None
