"""The smallest thing to wait for: one task parks, whoever likes unparks it."""

from __future__ import annotations

from ._core import Event


class Parker:
    """Has a task wait until somebody says so. For building other things to wait for.

    As `std::thread::park` of Rust: an unpark that comes first is kept, and at most one is. One task
    at a time may park. Stands where trio has `wait_task_rescheduled` and `reschedule`; to pass a
    value, put it where the task will look.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = Event()

    async def park(self) -> None:
        """Waits for `unpark`. A checkpoint. A cancellation takes no unpark away."""
        await self._event.async_wait()
        self._event.clear()

    def sync_park(self, timeout: float | None = None) -> bool:
        """`park` for synchronous code. False when `timeout` seconds are over."""
        if not self._event.wait(timeout):
            return False
        self._event.clear()
        return True

    def unpark(self) -> None:
        """Lets it go on, or its next `park` end at once. Thread-safe."""
        self._event.set()
