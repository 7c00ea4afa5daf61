"""A loop for tests: it stands while pytest, which stays outside, does something else.

In each loop there are two tasks that do what pytest asks for, for as long as the loop lives: a
green thread for what is synchronous, and a task for what is async. So a fixture and the tests that
use it have one thread identity, and one place in the tree of cancel scopes; and a generator goes on
where it began. Variables of the context that one of the two has set are handed to the other.
"""

from __future__ import annotations

import contextvars
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from .. import _core
from .._backend import HostBackend, checkpoint, wait
from .._bridge import await_
from .._exceptions import AeventError, AeventWarning
from .._run import runner
from .._scopes import CancelScope
from .._sync import Event

#: Real seconds that threads have to end by themselves when their loop is closed.
GRACE = 0.2


class Job:
    """Something that pytest wants to be called in a task."""

    def __init__(self, call: Callable[[], Any], *, is_async: bool, scoped: bool) -> None:
        self.call = call
        self.is_async = is_async
        #: Whether it leaves all scopes that it enters. A step of a generator may not.
        self.scoped = scoped
        self.scope: CancelScope | None = None
        #: Whether it is the end of the loop.
        self.closes = False
        self.done = Event()
        self.result: Any = None
        self.error: BaseException | None = None
        #: What ended it from outside: a timeout, an interrupt.
        self.ended_by: BaseException | None = None

    def outcome(self) -> Any:
        __tracebackhide__ = True
        error, self.error = self.error, None
        ended_by, self.ended_by = self.ended_by, None
        try:
            if ended_by is not None and error is not ended_by:
                raise ended_by from error
            if error is not None:
                raise error
            return self.result
        finally:
            # The traceback has this frame.
            del error, ended_by


class TestLoop(ABC):
    """A loop of one backend. Only for the thread that opens it."""

    __test__ = False

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._adapter: HostBackend | None = None
        self._is_open = False
        self._abandoned = False
        self._jobs: dict[bool, Job | None] = {False: None, True: None}
        self._wake = {False: Event(), True: Event()}
        self._changed: dict[bool, dict[contextvars.ContextVar[Any], Any]] = {False: {}, True: {}}
        #: The green thread for synchronous jobs, and the task for async ones.
        self._green: _core.Task | None = None
        self._task: _core.Task | None = None
        self._identity = 0
        self._whole: CancelScope | None = None
        self._current: Job | None = None
        self._left: list[str] = []

    # --- what drives it ---

    @abstractmethod
    def _run_until_ready(self) -> None:
        """Starts `_main()` as a task, and runs the loop until that has called `_on_ready()`."""

    @abstractmethod
    def _run_until(self, done: Event, wake: Event, main: _core.Task | None) -> None:
        """Sets `wake`, and runs the loop until `done` is set. `main` gets the signals."""

    @abstractmethod
    def _run_until_over(self, wake: Event) -> None:
        """Sets `wake`, and runs the loop until `_main()` has ended. Raises what that has raised."""

    @abstractmethod
    def _on_ready(self) -> None:
        """Called in `_main()`."""

    @abstractmethod
    def _break_off(self) -> None:
        """Has `_run_until_over` return. From a signal handler."""

    def open(self) -> None:
        """Starts it. May raise what the host's start raises."""
        self._run_until_ready()
        self._is_open = True

    def close(self, watched: Callable[[TestLoop, Job], Any]) -> None:
        """Ends it: green threads that have not ended soon are cancelled, with a warning.

        `watched` is as in `run`. AeventError if somebody goes on nevertheless.
        """
        if not self._is_open:
            return
        self._is_open = False
        self._jobs[True] = None
        job = Job(lambda: None, is_async=True, scoped=False)
        job.closes = True
        with watched(self, job):
            self._run_until_over(self._wake[True])
        names = ", ".join(self._left)
        if self._abandoned:
            raise AeventError(
                f"green threads that were left running do not end: {names or 'see stderr'}. What "
                "comes next begins without them."
            )
        if self._left:
            warnings.warn(
                f"green threads were left running and have been cancelled: {names}. Have the test, "
                "or the fixture that starts them, wait for their end.",
                AeventWarning,
                stacklevel=2,
            )

    # --- what runs in it ---

    async def _main(self) -> None:
        async with runner(_adapter=self._adapter) as children:
            if self._adapter is not None:
                self._adapter.install_portal()
                await checkpoint()
                self._identity = self._adapter.task_identity()
            else:
                self._task = _core.current_task()
            self._green, _ = _core.start_main(self._serve_green, (), children, self._serve_green)
            _core.set_main(None)
            with CancelScope() as self._whole:
                self._on_ready()
                await self._serve_async()
            self._wake[False].set()
            with CancelScope(shield=True):
                await wait(self._green._finished_wait())
                await self._end_threads(children)

    async def _end_threads(self, children: _core.Children) -> None:
        with CancelScope(deadline=_core.current_time() + GRACE):
            await wait(children.wait_empty(daemons_too=False))
        if children.pending > children.daemons:
            self._left = [
                thread.name
                for thread in threading.enumerate()
                if thread is not threading.main_thread() and not thread.daemon
            ] or ["without a name"]
        children.cancel()

    async def _serve_async(self) -> None:
        while True:
            try:
                # What a fixture has entered may be cancelled. That is for the next job to notice.
                with CancelScope(shield=True):
                    await self._wake[True].async_wait()
            except KeyboardInterrupt:
                continue
            self._wake[True].clear()
            job = self._jobs[True]
            if job is None:
                return
            before = self._enter_job(True)
            try:
                if job.scoped and self._adapter is not None:
                    with CancelScope() as job.scope:
                        job.result = await job.call()
                else:
                    job.result = await job.call()
            except GeneratorExit:
                raise
            except BaseException as error:
                job.error = error
            self._leave_job(True, before)
            job.done.set()
            del job

    def _serve_green(self) -> None:
        while True:
            try:
                with CancelScope(shield=True):
                    self._wake[False].wait()
            except KeyboardInterrupt:
                continue
            self._wake[False].clear()
            job = self._jobs[False]
            if job is None:
                return
            before = self._enter_job(False)
            try:
                job.result = job.call()
            except BaseException as error:
                job.error = error
            self._leave_job(False, before)
            job.done.set()
            del job

    def _enter_job(self, is_async: bool) -> contextvars.Context:
        """Takes over what the other task has set; what the context is like then."""
        changed = self._changed[is_async]
        while changed:
            variable, value = changed.popitem()
            variable.set(value)
        return contextvars.copy_context()

    def _leave_job(self, is_async: bool, before: contextvars.Context) -> None:
        self._jobs[is_async] = None
        changed = self._changed[not is_async]
        for variable, value in contextvars.copy_context().items():
            if variable not in before or before[variable] is not value:
                changed[variable] = value

    # --- what pytest asks for ---

    def run(
        self,
        call: Callable[[], Any],
        *,
        is_async: bool = False,
        scoped: bool = False,
        watched: Callable[[TestLoop, Job], Any] | None = None,
    ) -> Any:
        """Calls `call` in a task, awaits what it returns if `is_async`, and returns or raises so.

        From outside, runs the loop meanwhile. From inside, as where a test asks for a fixture by
        its name, waits. `watched` gives a context manager, which may end the job.
        """
        __tracebackhide__ = True
        here = _core.current_task()
        if here is not None:
            return self._run_inside(here, call, is_async)
        job = self._current = Job(call, is_async=is_async, scoped=scoped)
        main = self._task if is_async else self._green
        try:
            with watched(self, job) if watched is not None else _Unwatched():
                self._jobs[is_async] = job
                self._run_until(job.done, self._wake[is_async], main)
        finally:
            self._current = None
        return job.outcome()

    def _run_inside(self, here: _core.Task, call: Callable[[], Any], is_async: bool) -> Any:
        __tracebackhide__ = True
        if self._jobs[is_async] is not None:
            # That task is busy. It may be this one, or one that waits for it.
            return await_(_awaited(call)) if is_async else call()
        job = Job(call, is_async=is_async, scoped=False)
        self._jobs[is_async] = job
        self._wake[is_async].set()
        job.done.wait()
        return job.outcome()

    def _runs_here(self, job: Job) -> bool:
        """Whether what runs right now, if anything, is the job."""
        if not job.is_async:
            return self._green is not None and _core.current_task() == self._green
        if self._adapter is None:
            return self._task is not None and _core.current_task() == self._task
        return self._adapter.task_identity() == self._identity

    def end(self, job: Job, error: BaseException) -> None:
        """Has the job raise `error` where it waits or, being a host's, be cancelled for it.

        From a signal handler, wherever it was called; if in the job itself, raises it right there.
        """
        job.ended_by = error
        if self._runs_here(job):
            raise error
        if job.is_async and self._adapter is not None:
            scope = job.scope or self._whole
            if scope is not None:
                scope.cancel()
            return
        task = self._task if job.is_async else self._green
        if task is not None:
            task.interrupt(error)

    @property
    def is_abandoned(self) -> bool:
        return self._abandoned

    def abandon(self, job: Job) -> None:
        """Goes on as if the job had ended. The loop is of no use any more."""
        self._abandoned = True
        self._is_open = False
        if job.closes:
            self._break_off()
        job.done.set()


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


class _Unwatched:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...
