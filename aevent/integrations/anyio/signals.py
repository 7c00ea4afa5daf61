"""anyio's signal receiver."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from ... import _core, _signals


class SignalReceiver:
    """An iterator over signals as they arrive, while it is entered."""

    def __init__(self, signals: tuple[signal.Signals, ...]) -> None:
        self._signals = signals
        self._arrived: _core.SimpleQueue[int] = _core.SimpleQueue()
        self._waiting: set[int] = set()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> SignalReceiver:
        for number in dict.fromkeys(self._signals):
            self._former[number] = _signals.set_handler(number, self._deliver)
        return self

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        # Signals do not queue: one that has not been fetched yet stands for all that came since.
        if number not in self._waiting:
            self._waiting.add(number)
            self._arrived.put(number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            _signals.set_handler(number, handler)
        self._former.clear()

    def __aiter__(self) -> SignalReceiver:
        return self

    async def __anext__(self) -> signal.Signals:
        await _core.Checkpoint()
        number = await self._arrived._get_wait()
        self._waiting.discard(number)
        return signal.Signals(number)
