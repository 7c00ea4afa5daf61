"""`atexit`."""

from __future__ import annotations

from typing import Any


def test_what_a_task_registers_runs_in_a_task_at_the_exit(fresh_ok: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import atexit, threading, time

def wait(*args, **kwargs):
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()
    print(args, kwargs, aevent._core.in_task())

def removed():
    print("never")

def main():
    assert atexit.register(wait, 1, a=2) is wait
    atexit.register(removed)
    atexit.unregister(removed)

    @atexit.register
    def decorated():
        print("decorated")

    for wrong in ((), (1,), (None, 2)):
        try:
            atexit.register(*wrong)
        except TypeError as error:
            if wrong:
                assert str(error) == "the first argument must be callable"
        else:
            raise AssertionError

aevent.run(main)
atexit.register(lambda: print("outside", aevent._core.in_task()))
"""
    assert fresh_ok(script, backend).splitlines() == [
        "outside False",
        "decorated",
        "(1,) {'a': 2} True",
    ]


def test_one_that_raises_is_named(fresh: Any, backend: str) -> None:
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import atexit
aevent.run(atexit.register, divmod, 1, 0)
"""
    done = fresh(script, backend)
    assert "in atexit callback <built-in function divmod>" in done.stderr.replace(":", "")
