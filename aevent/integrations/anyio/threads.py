"""Worker threads, and what they may ask of the loop."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import anyio
from anyio import RunFinishedError
from anyio._core._eventloop import claim_worker_thread

from ... import _core
from ..._monkey import originals
from .runs import Run, current_run
from .sync import default_limiter

#: How long an idle thread waits for more work before it ends, in seconds.
IDLE_SECONDS = 10.0

_local = originals.SystemLocal()
_idle: list[_Thread] = []


class _Thread:
    """A real OS thread that makes one call after another."""

    def __init__(self) -> None:
        self._wake = originals.allocate_lock()
        self._wake.acquire()
        self._job: Callable[[], None] | None = None
        originals.start_new_thread(self._serve, ())

    def _serve(self) -> None:
        while True:
            if not self._wake.acquire(timeout=IDLE_SECONDS):
                try:
                    _idle.remove(self)
                except ValueError:
                    # It was taken at this very moment.
                    self._wake.acquire()
                else:
                    return
            job, self._job = self._job, None
            assert job is not None
            job()
            del job

    def start(self, job: Callable[[], None]) -> None:
        self._job = job
        self._wake.release()


def _start_in_thread(job: Callable[[_Thread], None]) -> None:
    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Thread()
    thread.start(lambda: job(thread))


class _Call:
    """A call in a worker thread, as its task and its thread see it."""

    def __init__(self, run: Run, abandons: bool) -> None:
        self.run = run
        self.abandons = abandons
        self.abandoned = False
        self.outcome: Future[Any] = Future()
        #: What the thread has for the task: calls to be made, and `None` when it is done.
        self.letters: _core.SimpleQueue[Callable[[], Coroutine[Any, Any, None]] | None] = (
            _core.SimpleQueue()
        )
        self.task = _core.current_task()


async def run_in_worker(
    backend: type[Any],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    abandon_on_cancel: bool,
    limiter: anyio.CapacityLimiter | None,
) -> Any:
    """Calls `fn(*args)` in a real thread, in a copy of the caller's context."""
    await _core.Checkpoint()
    run = current_run()
    limiter = limiter or default_limiter(run)
    borrower = object()
    await limiter.acquire_on_behalf_of(borrower)
    call = _Call(run, abandon_on_cancel)
    context = contextvars.copy_context()
    # The library is not running in the thread.
    context.run(_forget_library)

    def release() -> None:
        limiter.release_on_behalf_of(borrower)

    def job(thread: _Thread) -> None:
        _local.call = call
        try:
            with claim_worker_thread(backend, run):
                try:
                    result = context.run(fn, *args)
                except BaseException as error:
                    call.outcome.set_exception(error)
                    del error
                else:
                    call.outcome.set_result(result)
                    del result
        finally:
            del _local.call
        _idle.append(thread)
        try:
            run.call_soon(release)
        except RunFinishedError:
            pass
        call.letters.put(None)

    _start_in_thread(job)
    try:
        while True:
            if abandon_on_cancel:
                letter = await call.letters._get_wait()
            else:
                with _core.CancelScope(shield=True):
                    letter = await call.letters._get_wait()
            if letter is None:
                try:
                    return call.outcome.result()
                finally:
                    del call
            await letter()
    except _core.Cancelled:
        if abandon_on_cancel:
            call.abandoned = True
        raise


def _forget_library() -> None:
    from sniffio import current_async_library_cvar  # anyio does without it, too

    current_async_library_cvar.set(None)


def check_cancelled() -> None:
    """In a worker thread: raises if the task that waits for it is cancelled."""
    call: _Call | None = getattr(_local, "call", None)
    if call is None:
        raise RuntimeError("this is not a worker thread of aevent's")
    if call.abandoned or (call.task is not None and call.task.is_cancelled):
        raise _core.Cancelled


def run_async(
    fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], run: Run | None
) -> Any:
    """Runs `fn(*args)` in the loop of `run`, from another thread."""
    return _ask(fn, args, run, True)


def run_sync(fn: Callable[..., Any], args: tuple[Any, ...], run: Run | None) -> Any:
    """Calls `fn(*args)` in the loop of `run`, from another thread."""
    return _ask(fn, args, run, False)


def _ask(fn: Callable[..., Any], args: tuple[Any, ...], run: Run | None, is_async: bool) -> Any:
    call: _Call | None = None
    if run is None:
        call = getattr(_local, "call", None)
        if call is None:
            raise RuntimeError("this is not a worker thread of aevent's")
        if call.abandoned:
            raise _core.Cancelled
        run = call.run
    assert run is not None
    if run.thread == originals.get_ident():
        raise RuntimeError("this function cannot be called in the thread of the event loop")
    outcome: Future[Any] = Future()
    context = contextvars.copy_context()
    context.run(_set_library)

    async def make() -> None:
        try:
            result = fn(*args)
            if is_async:
                result = await result
        except BaseException as error:
            outcome.set_exception(error)
            del error
        else:
            outcome.set_result(result)

    def begin() -> None:
        if run.finished:
            outcome.set_exception(RunFinishedError())
        elif is_async:
            context.run(run.spawn, make(), "aevent: a call from a thread")
        else:
            coroutine = make()
            try:
                context.run(coroutine.send, None)
            except StopIteration:
                pass

    if call is not None and not call.abandons:

        async def in_task() -> None:
            await _in_context(context, make)

        call.letters.put(in_task)
    else:
        run.call_soon(begin)
    return outcome.result()


async def _in_context(
    context: contextvars.Context, make: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Runs `make()` in the running task's place, with the variables of `context`."""
    children = _core.Children()
    context.run(children.spawn_coroutine, make(), "aevent: a call from a thread")
    with _core.CancelScope(shield=True):
        await children.wait_empty()
    children.close()


def _set_library() -> None:
    from sniffio import current_async_library_cvar  # as above

    current_async_library_cvar.set("aevent")


def run_sync_soon(fn: Callable[..., object], args: tuple[Any, ...], run: Run) -> None:
    """Has `fn(*args)` called in the loop of `run`, which may be the caller's."""
    context = contextvars.copy_context()

    def begin() -> None:
        if not run.finished:
            try:
                context.run(fn, *args)
            except BaseException as error:
                _core.print_exception(error)

    run.call_soon(begin)
