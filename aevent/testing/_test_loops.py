"""The loops for tests: how each backend's is run for a while, left, and gone on with."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .. import _core, _run
from .._asyncgens import AsyncGenerators
from .._backend import HostBackend, check_name, load, wait
from .._entry import NativeToken
from .._monkey.nested_loops import exchange_kept
from .._scopes import CancelScope
from .._signals import in_main_os_thread, interrupts, wakeups
from .._sync import Event
from ._test_loop import TestLoop


class NativeTestLoop(TestLoop):
    """Its tasks stay where they are while nobody runs the loop."""

    def _run_until_ready(self) -> None:
        self._children = _core.Children(keeps_errors=False)
        self._token = NativeToken(self._children)
        self._generators = AsyncGenerators(self._token)
        self._ready = Event()
        self._over = Event()
        self._ending = CancelScope(shield=True)
        self._run(self._start(), None)

    async def _start(self) -> None:
        self._children.spawn_coroutine(self._main_task(), "aevent tests")
        await self._ready.async_wait()

    async def _main_task(self) -> None:
        try:
            await self._main()
        finally:
            self._ready.set()
            self._over.set()

    def _on_ready(self) -> None:
        self._ready.set()

    def _break_off(self) -> None:
        self._over.set()
        self._ending.cancel()

    def _run(
        self,
        coroutine: Coroutine[Any, Any, None],
        main: _core.Task | None,
        wake: Event | None = None,
    ) -> None:
        async def with_main() -> None:
            _core.set_main(main)
            # Not before: a signal that comes when the job has begun is the job's.
            if wake is not None:
                wake.set()
            await coroutine

        with _run.driving_natively(self._token, self._generators):
            _core.run_native(None, (), with_main(), self._children)

    def _run_until(self, done: Event, wake: Event, main: _core.Task | None) -> None:
        self._run(_wait_for(done), main, wake)

    def _run_until_over(self, wake: Event) -> None:
        try:
            self._run(self._end(), None, wake)
        finally:
            self._token.end()
            # A mock clock may have left it ahead, and nothing has a deadline any more.
            _core.give_up_clock()

    async def _end(self) -> None:
        await self._over.async_wait()
        if self._abandoned:
            return
        # What is left are tasks that belong to the loop itself.
        self._children.cancel()
        with self._ending:
            await wait(self._children.wait_empty())
        self._children.close()
        await self._generators.close_all()


async def _wait_for(event: Event) -> None:
    await event.async_wait()


class HostTestLoop(TestLoop):
    """A loop of a host's. Outside, there is no loop, and somebody may run one of his own."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        adapter = load(backend)()
        assert isinstance(adapter, HostBackend)
        self._adapter: HostBackend = adapter
        #: What the host keeps for the thread while the loop runs.
        self._kept: dict[int, dict[str, Any]] = {}

    @contextmanager
    def _driving(self, main: _core.Task | None, *, attached: bool = True) -> Iterator[None]:
        with interrupts(), self._wakeups():
            pytests = exchange_kept(self._kept)
            if attached:
                _core.set_host(self._adapter)
            former = _core.set_main(main)
            if in_main_os_thread():
                failed = _core.on_handler_failure(self._on_handler_failure)
            try:
                yield
            finally:
                if in_main_os_thread():
                    _core.on_handler_failure(failed)
                _core.set_main(former)
                _core.set_host(None)
                self._kept = exchange_kept(pytests)

    def _wakeups(self) -> AbstractContextManager[None]:
        """What has a signal wake the loop while it runs."""
        return wakeups()

    def _on_handler_failure(self, error: BaseException) -> bool:
        job = self._current
        if job is None or not job.is_async or job.ended_by is not None or self._runs_here(job):
            return False
        self.end(job, error)
        return True


def open_test_loop(backend: str) -> TestLoop:
    """A loop of the backend that is named. Imports its host, and no other."""
    check_name(backend)
    loop: TestLoop
    if backend == "native":
        loop = NativeTestLoop(backend)
    else:
        _run.before_run()
        # Each imports its host.
        if backend == "trio":
            from ._trio_test_loop import TrioTestLoop

            loop = TrioTestLoop(backend)
        else:
            from ._asyncio_test_loop import AsyncioTestLoop

            loop = AsyncioTestLoop(backend)
    loop.open()
    return loop
