"""Signals as values that async code, or synchronous code, iterates over. Semantics trio's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from . import _core
from ._exceptions import AeventError
from ._monkey import originals
from ._signals import get_handler, in_main_os_thread, set_handler

_signal: Any = originals.saved["signal"]["signal"]


class SignalReceiver:
    """The signals that have arrived and were not taken, each once, in the order of their arrival.

    `async for`, or `for` in a green thread. Given by `open_signal_receiver()`.
    """

    def __init__(self) -> None:
        self._arrived: _core.SimpleQueue[int] = _core.SimpleQueue()
        self._waiting: set[int] = set()
        self._closed = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler. It runs in whatever the main OS thread does, so it does next to nothing."""
        if number not in self._waiting:
            self._waiting.add(number)
            self._arrived.put(number)

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("the signal receiver is used after the end of its 'with' block")

    def _taken(self, number: int) -> signal.Signals:
        self._waiting.discard(number)
        return signal.Signals(number)

    def __aiter__(self) -> SignalReceiver:
        return self

    async def __anext__(self) -> signal.Signals:
        """Waits for the next signal. A checkpoint. Cancellation loses none."""
        self._check()
        return self._taken(await self._arrived.async_get())

    def __iter__(self) -> SignalReceiver:
        return self

    def __next__(self) -> signal.Signals:
        self._check()
        return self._taken(self._arrived.get())

    def __repr__(self) -> str:
        return f"<aevent.SignalReceiver, {'closed' if self._closed else 'open'}>"


@contextmanager
def open_signal_receiver(*signals: signal.Signals | int) -> Iterator[SignalReceiver]:
    """In the body, `signals` do not call their handlers, but are received by iterating.

    `with open_signal_receiver(signal.SIGTERM) as received:` and then `async for number in
    received:`. A signal that arrives again before it was received counts once. Those that were not
    received when the body ends are sent again, to the handlers that were set before and are set
    again then.

    In the main OS thread only (AeventError). SIGKILL and SIGSTOP cannot be caught (OSError).
    """
    if not signals:
        raise TypeError("open_signal_receiver() expects at least one signal")
    if not in_main_os_thread():
        raise AeventError(
            "aevent.open_signal_receiver() was called outside the main OS thread, which "
            "alone hears of signals"
        )
    receiver = SignalReceiver()
    former: dict[int, Any] = {}
    try:
        for number in signals:
            if int(number) not in former:
                handler = get_handler(int(number))
                # Not by `set_handler`, which would leave the call to the main task: that may be
                # busy.
                _signal(number, receiver._note)
                former[int(number)] = handler
        yield receiver
    finally:
        receiver._closed = True
        for number, handler in former.items():
            # `None`: it was not set by Python, and cannot be set again from there.
            set_handler(number, signal.SIG_DFL if handler is None else handler)
        while receiver._waiting:
            signal.raise_signal(receiver._taken(receiver._arrived.get_nowait()))
