"""What anyio's pytest plugin runs tests and fixtures with: one loop for several calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

from anyio import abc

from ... import _core, _run
from ..._core import CancelScope
from ..._signals import interrupts, wakeups


class _Job:
    """One call, and how it ended."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable
        self.done = _core.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class TestRunner(abc.TestRunner):
    """Makes all calls in one task, which waits while no test runs."""

    __test__ = False

    def __init__(self) -> None:
        self._children: _core.Children | None = None
        self._jobs: _core.SimpleQueue[_Job | None] = _core.SimpleQueue()
        self._task: _core.Task | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        children = self._children
        if children is None:
            return
        self._children = None
        self._jobs.put(None)

        async def end() -> None:
            # Also what tests and fixtures have left behind.
            children.cancel()
            with CancelScope(shield=True):
                await children.wait_empty()
            children.close()

        self._drive(end(), children)

    def is_running(self) -> bool:
        return _core.driver() == "native"

    def _drive(self, coroutine: Coroutine[Any, Any, None], children: _core.Children) -> None:
        token = _run._runner.set(children)
        try:
            with interrupts(), wakeups():
                _core.run_native(None, (), coroutine, children)
        finally:
            _run._runner.reset(token)

    async def _serve(self) -> None:
        self._task = _core.current_task()
        while True:
            job = await self._jobs._get_wait()
            if job is None:
                return
            try:
                job.result = await job.awaitable
            except BaseException as error:
                job.error = error
            finally:
                job.done.set()
                del job

    def _call(self, fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        job = _Job(fn(*args, **kwargs))
        children = self._children
        if children is None:
            children = self._children = _core.Children(keeps_errors=False)

        async def wait() -> None:
            assert children is not None
            if not children.pending:
                children.spawn_coroutine(self._serve(), "aevent: anyio's test runner")
            self._jobs.put(job)
            while not job.done.is_set():
                try:
                    await job.done._wait()
                except BaseException as error:
                    # A signal's, such as KeyboardInterrupt: it is for the test.
                    assert self._task is not None
                    self._task.interrupt(error)

        self._drive(wait(), children)
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None
                del job
        return job.result

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
