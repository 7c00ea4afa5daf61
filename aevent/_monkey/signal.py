"""`signal`: handlers are called by the main task; waiting for signals."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .. import _core, _signals
from . import originals, patcher, threading

_saved = originals.saved["signal"]
_sigtimedwait: Callable[..., Any] = _saved["sigtimedwait"]
_pthread_sigmask: Callable[..., Any] = _saved["pthread_sigmask"]
_raise_signal: Callable[[int], None] = _saved["raise_signal"]
_pthread_kill: Callable[[int, int], None] = _saved["pthread_kill"]


def _check_main(name: str) -> None:
    if not threading.is_main():
        raise ValueError(f"{name} only works in main thread of the main interpreter")


def signal_(signalnum: int, handler: Any) -> Any:
    _check_main("signal")
    _core.breathe()
    return _signals.set_handler(signalnum, handler)


def getsignal(signalnum: int) -> Any:
    return _signals.get_handler(signalnum)


def raise_signal(signalnum: int, /) -> None:
    _core.breathe()
    _raise_signal(signalnum)


def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
    _check_main("set_wakeup_fd")
    return _signals.set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)


def _set_hosts_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
    _check_main("set_wakeup_fd")
    return _signals.set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer, is_hosts=True)


def pthread_kill(thread_id: int, signalnum: int, /) -> None:
    # A green thread's identifier is nothing that the system knows: its OS thread gets the signal.
    if thread_id == _core.thread_ident() or threading.is_green(thread_id):
        thread_id = originals.get_ident()
    _pthread_kill(thread_id, signalnum)


#: How many tasks wait for a signal that they had to block for that.
_blocked: dict[int, int] = {}


@contextlib.contextmanager
def _blocking(signals: set[int]) -> Iterator[None]:
    """Blocks them: the kernel's own wait takes those that are not, and ours may not miss them."""
    present = _pthread_sigmask(signal.SIG_BLOCK, signals)
    mine = {number for number in signals if number not in present or number in _blocked}
    for number in mine:
        _blocked[number] = _blocked.get(number, 0) + 1
    try:
        yield
    finally:
        for number in mine:
            _blocked[number] -= 1
            if not _blocked[number]:
                del _blocked[number]
        _pthread_sigmask(signal.SIG_UNBLOCK, mine - set(_blocked))


def _wait(sigset: Iterable[int], timeout: float | None) -> Any:
    """Waits as `sigtimedwait` does; for ever without a timeout."""
    numbers = list(sigset)
    _signals.leave_to_program(numbers)
    info = _sigtimedwait(numbers, 0)
    if info is not None or (timeout is not None and timeout <= 0):
        _core.checkpoint()
        return info
    deadline = None if timeout is None else _core.current_time() + timeout
    with _blocking({int(number) for number in numbers}):
        descriptor = _core.open_signalfd([int(number) for number in numbers])
        try:
            while True:
                info = _sigtimedwait(numbers, 0)
                if info is not None:
                    return info
                left = None if deadline is None else deadline - _core.current_time()
                if left is not None and left <= 0:
                    return None
                _core.wait_descriptors([(descriptor, True, False)], left)
        finally:
            os.close(descriptor)


def sigwait(sigset: Iterable[int], /) -> Any:
    number = _wait(sigset, None).si_signo
    try:
        return signal.Signals(number)
    except ValueError:
        return number


def sigwaitinfo(sigset: Iterable[int], /) -> Any:
    return _wait(sigset, None)


def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> Any:
    if not (hasattr(timeout, "__float__") and timeout >= 0):
        # It says what is wrong with the timeout.
        return _sigtimedwait(sigset, timeout)
    return _wait(sigset, timeout)


def pause() -> None:
    _core.wait_for_handler()


_faulthandler_register: Callable[..., None] = faulthandler.register


def register(signum: int, *args: Any, **kwargs: Any) -> None:
    _signals.leave_to_program([signum])
    _faulthandler_register(signum, *args, **kwargs)


def _in_green_thread(name: str, new: Callable[..., Any]) -> Callable[..., Any]:
    original = _saved[name]

    def call(*args: Any, **kwargs: Any) -> Any:
        if _core.task_kind() == "green":
            return new(*args, **kwargs)
        if name == "signal":
            _signals.leave_to_program(args[:1])
        return original(*args, **kwargs)

    return call


#: What the hosts' modules are given. A host that is run in the main task handles signals as any
#: program there does; one that runs us has them to itself.
FOR_HOSTS = {
    name: _in_green_thread(name, new)
    for name, new in (
        ("signal", signal_),
        ("getsignal", getsignal),
        ("set_wakeup_fd", _set_hosts_wakeup_fd),
    )
}


_ALWAYS: dict[str, Any] = {
    "signal": signal_,
    "getsignal": getsignal,
    "set_wakeup_fd": set_wakeup_fd,
    "pthread_kill": pthread_kill,
}
_IN_TASKS: dict[str, Any] = {
    "sigwait": sigwait,
    "sigwaitinfo": sigwaitinfo,
    "sigtimedwait": sigtimedwait,
    "pause": pause,
    "raise_signal": raise_signal,
}


def patch() -> None:
    for name, new in _ALWAYS.items():
        patcher.always(signal, name, new)
    for name, new in _IN_TASKS.items():
        patcher.function(signal, name, new)
    patcher.always(faulthandler, "register", register)
    if _signals.in_main_os_thread():
        # Handlers that were set earlier are the main task's, too.
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                _signals.set_handler(number, handler)
