"""Event loops that run in a task: `asyncio.run`, `trio.run` and `anyio.run` in a green thread.

Such a loop is its task's, as it would be its thread's: nobody else sees it running, and while it
waits for events the task parks. What the hosts keep for each OS thread is therefore kept for each
task.
"""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import _core, _signals
from .._backend import HostBackend
from .._scopes import current_effective_deadline
from . import originals, signal
from .select import Patience

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

# --- what belongs to a thread ---------------------------------------------------------------------

#: A local's identity to itself, so that it stays alive, and to what it was exchanged for.
_locals: dict[int, tuple[Any, _core.local]] = {}


def task_local(former: Any) -> _core.local:
    """What takes a local's place: its attributes belong to tasks, even to those of one thread."""
    known = _locals.get(id(former))
    if known is None:
        kind: Any = type(former)
        if kind not in (originals.SystemLocal, _core.local):
            names = {**vars(kind)}
            for name in ("__dict__", "__weakref__"):
                names.pop(name, None)
            if kind.__module__.partition(".")[0] == "sniffio":
                names["__init__"] = _name_the_loop
            kind = type(kind.__name__, (_core.local,), names)
        else:
            kind = _core.local
        local = kind()
        _core.adopt_local(local, former)
        known = _locals[id(former)] = former, local
        _locals[id(local)] = local, local
    return known[1]


def _name_the_loop(local: Any) -> None:
    """What sniffio says in a coroutine of the native loop. A green thread runs none by itself."""
    if _core.task_kind() == "coroutine":
        local.name = "aevent"


def exchange_kept(theirs: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Has the hosts keep `theirs` for whoever calls from now on; what they kept before.

    For a loop that is left while it has not ended, so that another may run in its thread meanwhile.
    Both are to be passed back only.
    """
    former = {}
    for key, local in {id(local): local for _, local in _locals.values()}.items():
        kept = vars(local)
        if kept:
            former[key] = dict(kept)
            kept.clear()
        kept.update(theirs.get(key, {}))
    return former


def _prepare_asyncio_events(module: Any) -> None:
    original = module._set_running_loop
    if original is _core._set_running_loop:
        return
    _core.keep_running_loops(original)
    for name in ("asyncio", "asyncio.events"):
        if getattr(sys.modules.get(name), "_set_running_loop", None) is original:
            sys.modules[name]._set_running_loop = _core._set_running_loop  # type: ignore[attr-defined]
    # Each policy keeps the loop that get_event_loop() gives.
    policy_class: Any = getattr(module, "BaseDefaultEventLoopPolicy", None)
    make_local = getattr(policy_class, "_Local", None)
    if make_local is not None:
        policy_class._Local = staticmethod(lambda: task_local(make_local()))
        policy = module._event_loop_policy
        if hasattr(policy, "_local"):
            policy._local = task_local(policy._local)


# --- what the main thread only may do -------------------------------------------------------------

#: The wake-up descriptors that loops in the main task have pushed aside.
_pushed_aside: list[int] = []


def _set_wakeup_fd(fd: int, *, warn_on_full_buffer: bool = True) -> int:
    """A loop in the main task has it for as long as it runs, and finds none set: not the host's."""
    set_wakeup_fd = signal.FOR_HOSTS["set_wakeup_fd"]
    if _core.task_kind() == "host":
        # The host itself, which runs us, or a loop that is run in one of its tasks.
        return _signals.set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer, is_hosts=True)
    if _core.task_kind() not in ("green", "coroutine"):
        return set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)  # type: ignore[no-any-return]
    if fd == -1 and _pushed_aside:
        set_wakeup_fd(_pushed_aside.pop(), warn_on_full_buffer=False)
        return -1
    former: int = set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
    if fd != -1 and former not in (-1, fd):
        _pushed_aside.append(former)
        return -1
    return former


#: What the hosts get of `signal`.
SIGNAL = {**signal.FOR_HOSTS, "set_wakeup_fd": _set_wakeup_fd}

# --- where they wait ------------------------------------------------------------------------------


#: What the thread's run of trio was cancelled with, if it was.
_trio_run: Any = _core.local()


def _prepare_trio_epoll(module: Any) -> None:
    from trio._core._run_context import GLOBAL_RUN_CONTEXT

    kind = module.EpollIOManager
    original = kind.get_events
    if isinstance(original, _core.PatchedMethod):
        return

    def get_events(self: Any, timeout: float) -> Any:
        events = original(self, 0)
        if events or timeout <= 0:
            return events
        runner = GLOBAL_RUN_CONTEXT.runner
        patience = Patience(timeout)
        try:
            while not events and not patience.is_over():
                patience.wait([(self._epoll.fileno(), True, False)])
                events = original(self, 0)
        except KeyboardInterrupt:
            # Raised here it would tear the run apart; trio's own handler does the same.
            runner.deliver_ki()
            return original(self, 0)
        except BaseException as error:
            # The thread is cancelled, and with it its main task, in trio's way.
            main = runner.main_task
            if not _is_cancellation(error) or main is None or main.parent_nursery is None:
                raise
            _trio_run.cancellation = error
            scope = main.parent_nursery.cancel_scope
            if not scope.cancel_called:
                # It has work for the loop, which therefore must not wait.
                scope.cancel()
                return original(self, 0)
            # From then on the loop serves the run's own clean-up.
            with _core.CancelScope(shield=True):
                return get_events(self, timeout)
        return events

    kind.get_events = _core.PatchedMethod(
        original, get_events, "get_events", original.__qualname__, original.__module__
    )


def _is_cancellation(error: BaseException) -> bool:
    """Whether it is what a cancelled task, of ours or of the host that drives us, raises."""
    if isinstance(error, _core.Cancelled):
        return True
    host = _core.get_host()
    return isinstance(host, HostBackend) and isinstance(error, host.cancelled)


def _prepare_trio_run(module: Any) -> None:
    original = module.run
    if isinstance(original, _core.PatchedFunction):
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        _trio_run.cancellation = None
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            # If the thread was cancelled, which `get_events` has told trio, then in its own terms.
            cancellation = _trio_run.cancellation
            if cancellation is None or not _is_only(error, module.Cancelled):
                raise
            raise cancellation from None
        finally:
            _trio_run.cancellation = None

    new = _core.PatchedFunction(original, run, "run", "run", original.__module__)
    for name, other in list(sys.modules.items()):
        if name.partition(".")[0] == "trio" and getattr(other, "run", None) is original:
            other.run = new  # type: ignore[attr-defined]


def _is_only(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether it is a `kind`, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)


def _prepare_uvloop(module: Any) -> None:
    original = module.Loop.run_forever
    if isinstance(original, _core.PatchedMethod):
        return

    def run_forever(self: Any) -> None:
        """Run the event loop until stop() is called: in a real thread, since it waits in C."""
        # Who takes it first: the thread that begins, or we, who do not want it to begin any more.
        begun = originals.allocate_lock()
        done = _core.Event()
        try:
            _core.offload(_run_and_tell, original, self, begun, done)
        except BaseException:
            # Cancelled, or a signal handler has raised, or the loop itself has.
            if not begun.acquire(False):
                if not done.is_set():
                    self.call_soon_threadsafe(self.stop)
                with _core.CancelScope(shield=True):
                    done.wait()
            raise

    module.Loop.run_forever = _core.PatchedMethod(
        original, run_forever, "run_forever", "Loop.run_forever", "uvloop"
    )
    _shield_clean_up(module.Loop, "run_until_complete")


def _run_and_tell(
    run_forever: Callable[[Any], None], loop: Any, begun: Any, done: _core.Event
) -> None:
    if not begun.acquire(False):
        return
    try:
        run_forever(loop)
    finally:
        done.set()


# --- threads --------------------------------------------------------------------------------------


def _prepare_asyncio_base_events(module: Any) -> None:
    for name in ("run_forever", "run_until_complete"):
        _shield_clean_up(module.BaseEventLoop, name)
    _prepare_executors(module.BaseEventLoop)


#: The loops that a cancellation of their thread has ended, and that may still clean up.
_cancelled_loops: weakref.WeakSet[Any] = weakref.WeakSet()


def _shield_clean_up(kind: Any, name: str) -> None:
    """A loop that its thread's cancellation has ended may run again: `asyncio.run` has its tasks,
    which are cancelled then, end in it."""
    original = getattr(kind, name)
    if isinstance(original, _core.PatchedMethod):
        return

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self in _cancelled_loops:
            if _is_cancelled():
                with _core.CancelScope(shield=True):
                    return original(self, *args, **kwargs)
            _cancelled_loops.discard(self)
        try:
            return original(self, *args, **kwargs)
        except BaseException:
            if _is_cancelled():
                _cancelled_loops.add(self)
            raise

    setattr(
        kind,
        name,
        _core.PatchedMethod(original, method, name, original.__qualname__, original.__module__),
    )


def _is_cancelled() -> bool:
    return current_effective_deadline() == -math.inf


def _prepare_executors(kind: Any) -> None:
    """asyncio's executors start real threads, also when a task asks for one."""
    original = kind.run_in_executor
    if hasattr(original, "_aevent_native"):
        return

    @functools.wraps(original)
    def run_in_executor(self: Any, executor: Any, func: Any, *args: Any) -> Any:
        entered = _core.adjust_native(1)
        try:
            return original(self, executor, func, *args)
        finally:
            if entered:
                _core.adjust_native(-1)

    run_in_executor._aevent_native = True  # type: ignore[attr-defined]
    kind.run_in_executor = run_in_executor


def _prepare_trio_threads(module: Any) -> None:
    """`trio.from_thread` in a green thread parks it until trio, perhaps on this stack, answers."""
    original = module._send_message_to_trio
    if hasattr(original, "_aevent_native"):
        return

    def _send_message_to_trio(trio_token: Any, message_to_trio: Any) -> Any:
        if _core.in_task():
            # The original waits in C, and with it the loop that is to answer. These messages'
            # classes may be frozen.
            object.__setattr__(message_to_trio, "queue", _core.SimpleQueue())
        return original(trio_token, message_to_trio)

    _send_message_to_trio._aevent_native = True  # type: ignore[attr-defined]
    module._send_message_to_trio = _send_message_to_trio


def _prepare_sniffio(module: Any) -> None:
    # anyio.run() sets it, and would find it set in a green thread of a task.
    _core.set_loop_name_variable(module.current_async_library_cvar)


_PREPARE: dict[str, Callable[[Any], None]] = {
    "asyncio.events": _prepare_asyncio_events,
    "asyncio.base_events": _prepare_asyncio_base_events,
    "sniffio": _prepare_sniffio,
    "trio._core._io_epoll": _prepare_trio_epoll,
    "trio._core._run": _prepare_trio_run,
    "trio._threads": _prepare_trio_threads,
    "uvloop": _prepare_uvloop,
}


def prepare(module: ModuleType) -> None:
    """Has the loops of a host's module, which was loaded, run in tasks too."""
    if module.__name__ in _PREPARE:
        _PREPARE[module.__name__](module)
