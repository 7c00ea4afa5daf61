"""Names and locks that were taken before `setup()`."""

from __future__ import annotations

from typing import Any

EARLY = """
import collections, dataclasses, functools, queue, sys, threading, time, types
from socket import getaddrinfo, socket
from threading import Condition, Event, Lock, RLock, Semaphore, Thread, local
from time import sleep as pause

nap = functools.partial(time.sleep, 0.001)
table = {"a": time.sleep, "b": [pause, (pause, (Lock,))], pause: 1}
several = {time.sleep}
ring = collections.deque([pause])

def default(_sleep=time.sleep, *, _make=threading.Lock):
    return _sleep, _make

def with_lock(_lock=threading.Lock()):
    return _lock

def closure():
    sleep, lock = time.sleep, Lock()
    def inner():
        return sleep, lock
    return inner
inner = closure()

class Holder:
    rest = staticmethod(time.sleep)
    guard = Lock()
    __slots__ = ("own",)
    def __init__(self):
        self.own = RLock()
holder = Holder()

@dataclasses.dataclass
class Data:
    function: object = time.sleep
    lock: object = dataclasses.field(default_factory=Lock)

class Lazy:
    @functools.cached_property
    def value(self):
        pause(0.01)
        return object()

plain, again, condition, event = Lock(), RLock(), Condition(), Event()
semaphore, items, simple = Semaphore(1), queue.Queue(), queue.SimpleQueue()
condition_on_lock = Condition(plain)
simple.put(1); simple.put(2)
mine = local()
mine.x = "main"
in_tuple = (1, (plain,))

class Local(local):
    def __init__(self, first, second=2):
        super().__init__()
        self.both = first, second
derived = Local(1, second=3)
listed = [derived]

class MyEvent(threading.Event):
    pass
"""

SETUP = """
import warnings
import aevent
aevent.setup(sys.argv[1])
from aevent import _core

def heartbeat(function):
    "Calls it in a task; another one has to go on meanwhile."
    ticks = 0
    done = False
    def tick():
        nonlocal ticks
        while not done:
            ticks += 1
            time.sleep(0)
    thread = threading.Thread(target=tick)
    thread.start()
    function()
    done = True
    thread.join()
    assert ticks > 1, ticks
"""


def test_names_are_rebound_wherever_they_are(fresh_ok: Any, backend: str) -> None:
    script = """
new = time.sleep
assert hasattr(new, "_aevent_orig")
assert pause is new
assert nap.func is new and nap.args == (0.001,)
assert table == {"a": new, "b": [new, (new, (threading.Lock,))], new: 1}
assert several == {new} and list(ring) == [new]
assert default() == (new, threading.Lock)
assert inner()[0] is new
assert Holder.rest is new and vars(Holder)["rest"].__func__ is new
assert Data().function is new and isinstance(Data().lock, threading.Lock)
assert getaddrinfo.__name__ == "getaddrinfo" and hasattr(getaddrinfo, "_aevent_orig")
assert Event is threading.Event and Condition is threading.Condition
assert functools.RLock is threading.RLock if hasattr(functools, "RLock") else True
import sched
assert sched.scheduler.__init__.__defaults__[1] is new
assert sys.modules["__main__"].pause is new

def main():
    heartbeat(lambda: pause(0.01))
    heartbeat(nap)
    heartbeat(lambda: default()[0](0.01))
aevent.run(main)
# Outside a task all is as it was.
pause(0.001)
"""
    fresh_ok("import sched\n" + EARLY + SETUP + script, backend)


def test_locks_are_replaced_in_all_their_holders(fresh_ok: Any, backend: str) -> None:
    script = """
for lock in (plain, Holder.guard, inner()[1], items.mutex, event._cond._lock, in_tuple[1][0],
             with_lock()):
    assert type(lock) is _core.Lock, lock
for lock in (again, holder.own, condition._lock):
    assert type(lock) is _core.RLock, lock
assert in_tuple[1][0] is plain is condition_on_lock._lock
assert condition.acquire.__self__ is condition._lock
assert (simple.get(), simple.get()) == (1, 2) and type(simple) is _core.SimpleQueue

def excludes(lock):
    "Whether two green threads exclude each other."
    inside = most = 0
    def work():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            pause(0.001)
            inside -= 1
    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert most == 1, (lock, most)

def main():
    for lock in (plain, again, condition, semaphore, holder.own, Holder.guard, condition_on_lock):
        excludes(lock)
    # They wait in the task that asks.
    for wait, end in ((event.wait, event.set), (items.get, lambda: items.put(1)),
                      (simple.get, lambda: simple.put(1))):
        thread = Thread(target=lambda: (pause(0.01), end()))
        thread.start()
        heartbeat(wait)
        thread.join()
    def notify():
        pause(0.01)
        with condition:
            condition.notify()
    def wait():
        with condition:
            condition.wait()
    thread = Thread(target=notify)
    thread.start()
    heartbeat(wait)
    thread.join()
    lazy, seen = Lazy(), []
    threads = [Thread(target=lambda: seen.append(lazy.value)) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    # A class of Python code that was derived before is as patched as its base.
    mine = MyEvent()
    thread = Thread(target=lambda: (pause(0.01), mine.set()))
    thread.start()
    heartbeat(mine.wait)
    thread.join()
    # With real threads, too.
    real = Thread._aevent_orig(target=lambda: (plain.acquire(), plain.release(), event.set()))
    event.clear()
    with plain:
        real.start()
        pause(0.01)
        assert not event.is_set()
    heartbeat(event.wait)
    real.join()
aevent.run(main)
with plain, again, condition:
    pass
"""
    fresh_ok(EARLY + SETUP + script, backend)


def test_local_data_belongs_to_green_threads(fresh_ok: Any, backend: str) -> None:
    script = """
assert mine.x == "main" and type(mine) is threading.local
assert derived.both == (1, 3) and listed[0] is derived and type(derived) is Local
assert issubclass(Local, threading.local)
def main():
    seen = []
    def work():
        seen.append(getattr(mine, "x", None))
        seen.append(derived.both)
        mine.x = derived.both = "green"
    for _ in range(2):
        thread = Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [None, (1, 3)] * 2, seen
aevent.run(main)
assert mine.x == "main" and derived.both == (1, 3)
"""
    fresh_ok(EARLY + SETUP + script, backend)


def test_what_cannot_be_replaced_is_named_in_a_warning(fresh: Any, backend: str) -> None:
    script = """
import sys, threading, _thread, warnings
warnings.simplefilter("always")
held = threading.Lock()
held.acquire()
class Holder:
    def __init__(self):
        self.lock = threading.RLock()
holder = Holder()
holder.lock.acquire()
class Derived(_thread.RLock):
    pass
def suspended(lock):
    yield
waits = suspended(threading.Lock())
next(waits)
import aevent
aevent.setup(sys.argv[1])
"""
    done = fresh(script, backend)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "AeventWarning" in line]
    assert len(warned) == 4, done.stderr
    for name, reason in (
        ("__main__.held", "a lock that is held"),
        ("__main__.Holder.lock", "an RLock that is held"),
        ("__main__.Derived", "is derived from _thread.RLock, which serves OS threads only"),
        ("__main__.suspended", "a lock that a generator refers to as well"),
    ):
        found = [line for line in warned if name in line and reason in line]
        assert len(found) == 1, (name, done.stderr)
        assert "Call it first" in found[0] and "script0.py" in found[0]


def test_a_local_that_other_threads_use_is_left_and_named(fresh: Any, backend: str) -> None:
    script = """
import sys, threading, warnings
warnings.simplefilter("always")
mine = threading.local()
unused = threading.local()
unused.x = "here"
def work():
    mine.x = 1
    started.set()
    go.wait()
    assert mine.x == 1
started, go = threading.Event(), threading.Event()
thread = threading.Thread(target=work)
thread.start()
started.wait()
import aevent
aevent.setup(sys.argv[1])
assert type(mine) is not threading.local
assert type(unused) is threading.local and unused.x == "here"
go.set()
thread.join()
"""
    done = fresh(script, backend)
    assert done.returncode == 0, done.stderr
    assert "__main__.mine: a threading.local that other threads have attributes of" in done.stderr


def test_rebinding_can_be_declined(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, threading, time
from time import sleep
lock = threading.Lock()
import aevent
aevent.setup(sys.argv[1], rebind=False)
assert sleep is time.sleep._aevent_orig and type(lock) is not threading.Lock
"""
    fresh_ok(script, backend)


def test_the_hosts_and_whoever_saved_originals_keep_them(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, time, types, threading
for name in ("gevent_like", "gevent", "gevent.inner", "trio.something", "pydevd"):
    module = sys.modules[name] = types.ModuleType(name)
    module.sleep = time.sleep
    module.lock = threading.Lock()
    module.table = [time.sleep]
import aevent
aevent.setup(sys.argv[1])
original = time.sleep._aevent_orig
for name in ("gevent", "gevent.inner", "trio.something", "pydevd"):
    module = sys.modules[name]
    assert module.sleep is original and module.table == [original], name
    assert type(module.lock) is not threading.Lock, name
assert sys.modules["gevent_like"].sleep is time.sleep
# What makes the patched classes be what they were for real threads is there.
thread = threading.Thread(target=time.sleep, args=(0.001,))
thread.start()
thread.join()
assert threading.Thread._aevent_orig
start = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
assert not hasattr(getattr(threading, start), "_aevent_orig")
"""
    fresh_ok(script, backend)


def test_excluded_modules_are_not_rebound(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, time, threading
from time import sleep
from threading import Lock
import aevent
aevent.setup(sys.argv[1], exclude=["time"])
assert sleep is time.sleep and not hasattr(sleep, "_aevent_orig")
assert Lock is threading.Lock
"""
    fresh_ok(script, backend)


def test_libraries_that_were_imported_first_cooperate(fresh_ok: Any, backend: str) -> None:
    script = """
import sys, threading, time, logging, http.server, concurrent.futures, requests, urllib3
logging.basicConfig(stream=sys.stdout, level=logging.ERROR)
handler = logging.getLogger().handlers[0]
import aevent
aevent.setup(sys.argv[1])
assert type(handler.lock) is threading.RLock and type(logging._lock) is threading.RLock

ticks = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # If a request stopped the others, this would never end.
        while len(ticks) < 3:
            time.sleep(0.001)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass

def main():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        session = requests.Session()
        session.trust_env = False
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            futures = [pool.submit(session.get, url) for _ in range(5)]
            while not all(future.done() for future in futures):
                ticks.append(time.sleep(0.001))
        assert [future.result().text for future in futures] == ["ok"] * 5
        server.shutdown()
        thread.join()
aevent.run(main)
"""
    fresh_ok(script, backend)


def test_nothing_of_foreign_objects_is_called(fresh_ok: Any, backend: str) -> None:
    program = """
import collections, sys, time, types
from threading import Lock
from time import sleep

called = []

class Proxy:
    "Whatever is asked of it, it loads what it stands for."
    def __getattribute__(self, name):
        called.append(name)
        raise RuntimeError(name)
    def __hash__(self):
        called.append("hash")
        raise RuntimeError
    __eq__ = __bool__ = __len__ = __iter__ = __contains__ = __hash__

class Lazy:
    "As django's are: it says that it is of another class, and finds out which."
    __class__ = property(lambda self: called.append("__class__"))
    def __getattr__(self, name):
        called.append(name)
        raise RuntimeError(name)

class Guarded(dict):
    def __setitem__(self, key, value):
        called.append("set")
        raise RuntimeError
    __contains__ = __getitem__ = items = keys = __iter__ = __len__ = clear = update = __setitem__

class GuardedList(list):
    def __setitem__(self, index, value):
        called.append("set")
        raise RuntimeError
    __getitem__ = __iter__ = __len__ = __setitem__

class Slots:
    __slots__ = ("own",)
    __getattr__ = __setattr__ = lambda self, name, *value: called.append(name)

class Ordered(collections.OrderedDict):
    pass

class OddModule:
    __module__ = property(lambda self: called.append("__module__"))
    def __init__(self):
        self.sleep = sleep

sys.modules["a_proxy"] = Proxy()
sys.modules["lazy_settings"] = Lazy()
lazy = Lazy()
lazy.__dict__["sleep"], lazy.__dict__["lock"] = sleep, Lock()
guarded, ordered, listed = Guarded(a=sleep), Ordered(a=sleep, b=1), GuardedList([sleep])
slots = Slots()
Slots.own.__set__(slots, sleep)
odd = OddModule()
proxies = {1: Proxy(), "x": [Proxy()]}
module = types.ModuleType("lazily")
module.__getattr__ = called.append
module.sleep = sleep
sys.modules["lazily"] = module

import aevent
aevent.setup(sys.argv[1])
assert called == [], called
assert lazy.__dict__["sleep"] is time.sleep
assert dict.__getitem__(guarded, "a") is time.sleep
assert list.__getitem__(listed, 0) is time.sleep
assert list(ordered.items()) == [("a", time.sleep), ("b", 1)]
assert Slots.own.__get__(slots) is time.sleep and odd.sleep is time.sleep
assert module.sleep is time.sleep
str(aevent.doctor())
assert called == [], called
"""
    fresh_ok(program, backend)
