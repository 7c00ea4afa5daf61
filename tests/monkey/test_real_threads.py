"""Packages that wait in C on threads of their own: their threads are real, and serve green ones."""

from __future__ import annotations

from typing import Any

import pytest

PACKAGE = """
import _thread, queue, threading
from threading import Thread

def goes_on():
    return True

def blocks_in_c():
    "As a C library would wait: until the others have gone on, as it must not keep them from."
    import select
    while not goes_on():
        select.select._aevent_orig([], [], [], 0.001)

class Worker:
    def __init__(self, start):
        self.requests = queue.SimpleQueue()
        self.condition = threading.Condition()
        self.answers = []
        start(self.run)

    def run(self):
        while True:
            request = self.requests.get()
            if request is None:
                return
            blocks_in_c()
            with self.condition:
                self.answers.append((request, threading.get_native_id()))
                self.condition.notify_all()

    def ask(self, request):
        self.requests.put(request)
        with self.condition:
            self.condition.wait_for(lambda: any(request == answer[0] for answer in self.answers))
        return dict(self.answers)[request]

STARTS = [
    lambda run: Thread(target=run).start(),
    lambda run: threading.Thread(target=run).start(),
    lambda run: _thread.start_new_thread(run, ()),
]
"""

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
import aevent
if "early" in sys.argv:
    import waits_in_c
aevent.setup(sys.argv[1], real_threads=["waits_in_c"])
import threading, time
import waits_in_c

beats = 0
over = False

def beat():
    global beats
    while not over:
        time.sleep(0.001)
        beats += 1

def main():
    global over
    threading.Thread(target=beat, daemon=True).start()
    here = threading.get_native_id()
    for start in waits_in_c.STARTS:
        worker = waits_in_c.Worker(start)
        until = beats + 5
        waits_in_c.goes_on = lambda: beats >= until
        assert worker.ask("something") != here
        worker.requests.put(None)
    over = True

aevent.run(main)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_threads_of_such_a_package_are_real(
    when: str, fresh_ok: Any, backend: str, tmp_path: Any
) -> None:
    (tmp_path / "waits_in_c.py").write_text(PACKAGE)
    fresh_ok(PROGRAM, backend, str(tmp_path), when)


def test_grpc_serves_green_threads(fresh_ok: Any, backend: str) -> None:
    pytest.importorskip("grpc")
    script = """
import sys
import aevent
aevent.setup(sys.argv[1])
import threading, time
from concurrent import futures
import grpc

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        def echo(request, context):
            # If calls stopped the others, this would never end.
            until = beats + 3
            while beats < until:
                time.sleep(0.001)
            return request
        return grpc.unary_unary_rpc_method_handler(echo)

beats = 0
over = False

def beat():
    global beats
    while not over:
        time.sleep(0.001)
        beats += 1

def main():
    global over
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=beat).start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/service/Echo")
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(call(b"x", timeout=30)))
            for _ in range(4)
        ]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert answers == [b"x"] * 4
        assert call.future(b"y").result(timeout=30) == b"y"
    server.stop(0).wait()
    over = True

aevent.run(main)
"""
    fresh_ok(script, backend)
