"""What anyio's pytest plugin runs tests and fixtures with: one loop for several calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

from anyio import abc

from ... import _core
from ..._asyncgens import AsyncGenerators
from ..._core import CancelScope
from ..._entry import NativeToken
from ..._run import driving_natively


class _Job:
    """One call, and how it ended."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable
        self.done = _core.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class _Loop:
    """A native loop that stands still between two calls, and the task that makes them."""

    def __init__(self) -> None:
        self.children = _core.Children(keeps_errors=False)
        self._token = NativeToken(self.children)
        self._generators = AsyncGenerators(self._token)
        self._jobs: _core.SimpleQueue[_Job] = _core.SimpleQueue()
        self._task: _core.Task | None = None

    def _drive(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs the loop until `coroutine`, its main task for the time being, has ended."""
        with driving_natively(self._token, self._generators):
            _core.run_native(None, (), coroutine, self.children)

    async def _serve(self) -> None:
        self._task = _core.current_task()
        while True:
            job = await self._jobs._get_wait()
            try:
                job.result = await job.awaitable
            except BaseException as error:
                job.error = error
            finally:
                job.done.set()
                del job

    async def _wait(self, job: _Job) -> None:
        if self._task is None:
            self.children.spawn_coroutine(self._serve(), "aevent: anyio's test runner")
        self._jobs.put(job)
        while not job.done.is_set():
            try:
                await job.done._wait()
            except BaseException as error:
                # A signal's, such as KeyboardInterrupt: it is for the test.
                assert self._task is not None
                self._task.interrupt(error)

    def call(self, awaitable: Awaitable[Any]) -> Any:
        job = _Job(awaitable)
        self._drive(self._wait(job))
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None
                del job
        return job.result

    async def _end(self) -> None:
        # Also what tests and fixtures have left behind.
        self.children.cancel()
        with CancelScope(shield=True):
            await self.children.wait_empty()
        self.children.close()
        await self._generators.close_all()

    def end(self) -> None:
        self._drive(self._end())
        self._token.end()


class TestRunner(abc.TestRunner):
    """Makes all calls in one task, which waits while no test runs."""

    __test__ = False

    def __init__(self) -> None:
        self._loop: _Loop | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop.end()
            self._loop = None

    def is_running(self) -> bool:
        return _core.driver() == "native"

    def _call(self, fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        if self._loop is None:
            self._loop = _Loop()
        return self._loop.call(fn(*args, **kwargs))

    def run_asyncgen_fixture(
        self, fixture_func: Callable[..., AsyncGenerator[Any, Any]], kwargs: dict[str, Any]
    ) -> Iterable[Any]:
        generator = fixture_func(**kwargs)
        yield self._call(generator.asend, None)
        with contextlib.suppress(StopAsyncIteration):
            self._call(generator.asend, None)
            self._call(generator.aclose)
            raise RuntimeError("Async generator fixture did not stop")

    def run_fixture(
        self, fixture_func: Callable[..., Coroutine[Any, Any, Any]], kwargs: dict[str, Any]
    ) -> Any:
        return self._call(fixture_func, **kwargs)

    def run_test(
        self, test_func: Callable[..., Coroutine[Any, Any, Any]], kwargs: dict[str, Any]
    ) -> None:
        self._call(test_func, **kwargs)
