"""Signals while a program runs: whose the handlers are, and how they wake the loop.

The interpreter notices a signal in whatever runs on the main OS thread. What it calls then is
`_core.deliver_signal`, which leaves the program's handler to the main task.
"""

from __future__ import annotations

import dis
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from . import _core
from ._monkey import originals

_signal: Callable[[int, Any], Any] = originals.saved["signal"]["signal"]
_getsignal: Callable[[int], Any] = originals.saved["signal"]["getsignal"]
_set_wakeup_fd: Callable[..., int] = originals.saved["signal"]["set_wakeup_fd"]
# As the interpreter sees it: in a process that a green thread has forked, the program's is another.
_main_thread: Callable[[], threading.Thread] = threading.main_thread

#: Whether the default handler of SIGINT is delivered to a main task of ours, too.
_interrupts_are_ours = False

#: The number of a signal that stands for "this task has computed for long", or 0.
_preemption = 0

#: Signals that the program uses, or has used.
_programs: set[int] = set()

#: Whether the program has a wake-up descriptor, which must not tell of that one.
_has_wakeup_fd = False

#: The pipe that wakes our loop: what it is read from and written to.
_pipe: tuple[int, int] | None = None


def in_main_os_thread() -> bool:
    """Whether the caller is in the thread in which the interpreter calls signal handlers."""
    return _main_thread().ident == originals.get_ident()


def set_handler(number: int, handler: Any) -> Any:
    """`signal.signal`, with a handler that is called by the main task. Returns the former one."""
    if _preemption and number == _preemption:
        if handler is signal.SIG_DFL:
            return handler
        leave_to_program([number])
    if callable(handler) and (_interrupts_are_ours or handler is not signal.default_int_handler):
        known = isinstance(number, int)
        former = _core.set_signal_handler(number, handler) if known and number >= 0 else None
        try:
            former_set = _signal(number, _core.deliver_signal)
        except BaseException:
            if known and number >= 0:
                _core.set_signal_handler(number, former)
            raise
    else:
        former_set = _signal(number, handler)
        former = _core.signal_handler(int(number))
    return former if former_set is _core.deliver_signal else former_set


def get_handler(number: int) -> Any:
    """`signal.getsignal`: the program's handler, not what stands for it."""
    handler = _getsignal(number)
    if handler is _core.preempt:
        return signal.SIG_DFL
    return _core.signal_handler(int(number)) if handler is _core.deliver_signal else handler


def is_preempting() -> bool:
    """Whether green threads that compute are preempted."""
    return _preemption != 0


def begin_preemption() -> None:
    """Has green threads of the main OS thread that compute let the others run."""
    global _preemption
    for number in sorted(signal.valid_signals(), reverse=True):
        if number < getattr(signal, "SIGRTMIN", number + 1):
            return
        if _getsignal(number) is signal.SIG_DFL and number not in _programs:
            break
    else:
        return
    _signal(number, _core.preempt)
    _core.set_preemption(number)
    _preemption = number


def end_preemption() -> None:
    """The opposite. The signal is what it was before."""
    global _preemption
    if not _preemption:
        return
    number, _preemption = _preemption, 0
    _core.set_preemption(0)
    # A signal that is on its way is not to do what it does by default: end the process.
    _signal(number, signal.SIG_IGN)
    _signal(number, signal.SIG_DFL)


def leave_to_program(numbers: Collection[int]) -> None:
    """The program has a use for these signals: another will do for us, if there is one."""
    if _preemption and _preemption in numbers:
        _programs.update(numbers)
        end_preemption()
        begin_preemption()


# Where the interpreter asks for signals between two instructions, and not in a call.
_core.set_preemption_points(
    bytes(
        code
        for name, code in dis.opmap.items()
        if code < 256 and (name == "RESUME" or ("JUMP" in name and "NO_INTERRUPT" not in name))
    )
)


@contextmanager
def interrupts() -> Iterator[None]:
    """Has SIGINT raise KeyboardInterrupt in the main task, wherever that waits.

    Only in the main thread, and only if nobody else handles the signal.
    """
    global _interrupts_are_ours
    if not in_main_os_thread():
        yield
        return
    _interrupts_are_ours = True
    if _getsignal(signal.SIGINT) is signal.default_int_handler:
        set_handler(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        _interrupts_are_ours = False
        if get_handler(signal.SIGINT) is signal.default_int_handler:
            _signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def wakeups() -> Iterator[None]:
    """Has a signal wake the loop even if it arrives just before the loop waits.

    A host that sees to that itself is left alone.
    """
    global _pipe
    if not in_main_os_thread():
        yield
        return
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    former = _set_wakeup_fd(writer, warn_on_full_buffer=False)
    if former != -1:
        _set_wakeup_fd(former, warn_on_full_buffer=False)
        os.close(reader)
        os.close(writer)
        yield
        return
    _pipe = reader, writer
    _core.watch_signals(reader)
    try:
        yield
    finally:
        # In the child of a fork it is another one.
        reader, writer = _pipe
        _pipe = None
        _core.watch_signals(-1)
        present = _set_wakeup_fd(-1)
        if present != writer:
            _set_wakeup_fd(present)
        os.close(reader)
        os.close(writer)


def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True, is_hosts: bool = False) -> int:
    """`signal.set_wakeup_fd`: our own, which takes its place, is not shown.

    A program that reads it would be told of preemptions; hosts do not mind.
    """
    global _has_wakeup_fd
    former = _set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
    has_wakeup_fd = fd != -1 and not is_hosts
    if _has_wakeup_fd != has_wakeup_fd:
        _has_wakeup_fd = has_wakeup_fd
        _core.hold_preemption(1 if has_wakeup_fd else -1)
    if _pipe is not None and _core.driver() is not None:
        if fd == -1:
            _set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        if former == _pipe[1]:
            return -1
    return former


def after_fork_in_child() -> None:
    """The pipe is the parent's: the child, which drives its loop itself, needs another."""
    global _pipe
    if _core.driver() != "native" or not in_main_os_thread():
        return
    former = _pipe
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    present = _set_wakeup_fd(writer, warn_on_full_buffer=False)
    if former is not None:
        if present != former[1]:
            # The program's own.
            _set_wakeup_fd(present)
        for descriptor in former:
            os.close(descriptor)
    _pipe = reader, writer
    _core.watch_signals(reader)
