"""Running a program, and being the home of its green threads."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

from . import _core
from ._asyncgens import AsyncGenerators
from ._backend import HostBackend, HostScope, checkpoint, current_host, load, wait
from ._bridge import is_coroutine_function
from ._core import Cancelled, CancelScope
from ._entry import NativeToken
from ._exceptions import AeventError
from ._signals import after_fork_in_child, in_main_os_thread, interrupts, wakeups
from ._tasks import function_name
from ._watchdog import watched

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

#: The backend that `setup` chose.
chosen_backend: str | None = None

#: Whether it was chosen from outside, so that what the program says does not count.
backend_is_given = False

#: Called before a loop is run: the hosts may have been imported since `setup`.
before_run: Callable[[], None] = lambda: None  # noqa: E731 - a slot, not a function

#: Called when the main function of a program has ended, or the body of a runner, before its threads
#: are waited for; and when they all have ended, or its daemons were abandoned: true. None may wait.
before_threads_end: list[Callable[[_core.Children], None]] = []
after_threads_end: list[Callable[[_core.Children, bool], None]] = []

#: Set when the function that `run` was given in the main thread has ended; `None` while none runs.
#: For the green threads of that program, this is the main thread's end.
main_over: _core.Event | None = None

#: Whether daemons are left where they are when the program of `run` has ended, and not cancelled:
#: as a process that ends leaves them.
abandon_daemons = False

_runner: contextvars.ContextVar[_core.Children] = _core.runner_variable()

# Whether anything is patched or not, and before the hooks of others, which may take patched locks.
os.register_at_fork(after_in_child=_core.after_fork_in_child)
os.register_at_fork(after_in_child=after_fork_in_child)


def default_backend() -> str:
    """What `run` uses unless it is told: what `setup` was given, `AEVENT_BACKEND`, or native."""
    return chosen_backend or os.environ.get("AEVENT_BACKEND") or "native"


def run(fn: Callable[..., Any], *args: Any, backend: str | None = None, **options: Any) -> Any:
    """Runs `fn(*args)`, async or not, to its end, and returns what it returns.

    Green threads that it started are waited for, except daemons, which are then cancelled.
    `options` go to the host's own `run`: `asyncio.Runner`'s (`debug`, `loop_factory`) or
    `trio.run`'s (`clock`, `instruments`, …). Each takes an `aevent.testing.MockClock` as `clock`.

    Raises what `fn` raises. KeyboardInterrupt is raised in `fn`, wherever it waits; an async `fn`
    on asyncio is cancelled instead, as `asyncio.run` does it, and `run` raises KeyboardInterrupt.
    Once `fn` has ended, it cancels the threads that are still waited for. Not to be called in a
    thread whose loop is running.
    """
    if isinstance(fn, Coroutine):
        fn.close()
        raise TypeError(
            f"run() expects a function and its arguments, not the coroutine object {fn!r}: write "
            "run(fn, arg), not run(fn(arg))"
        )
    if not callable(fn):
        raise TypeError(f"run() expects a function, not {fn!r}")
    if _core.driver() is not None:
        raise AeventError(
            "aevent.run() was called in an OS thread whose loop is running already. Call the "
            "function directly, spawn it, or run it in a thread of its own."
        )
    adapter = load(backend or default_backend())()
    before_run()
    for option in options:
        if option not in adapter.run_options:
            choice = ", ".join(sorted(adapter.run_options))
            raise TypeError(f"the {adapter.name} backend has no option {option!r}: it has {choice}")
    with _main_thread(fn) as main, _plain_interrupts():
        if isinstance(adapter, HostBackend):
            return _run_hosted(adapter, main, args, fn, options)
        return _run_natively(main, args, fn, **options)


@contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Has `run` raise KeyboardInterrupt itself, not the group that a task group made of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        raise KeyboardInterrupt from group


def _run_hosted(
    adapter: HostBackend,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    described: Callable[..., Any],
    options: dict[str, Any],
) -> Any:
    clock: Any = options.get("clock")
    # A MockClock, or else trio's own affair.
    options_for_host = getattr(clock, "_options_for_host", None)
    if options_for_host is None:
        if clock is not None and adapter.name != "trio":
            raise TypeError(f"clock must be an aevent.testing.MockClock, not {clock!r}")
        clock = None
    else:
        options = options_for_host(adapter.name, {**options})

    if is_coroutine_function(fn):

        async def in_body(children: _core.Children, failed: _HandlerFailed) -> Any:
            current_host().install_portal()
            await checkpoint()
            with failed.cancels_body():
                return await fn(*args)

        return _run_in_time(adapter, in_body, function_name(described), clock, options)

    async def in_thread(children: _core.Children, failed: _HandlerFailed) -> Any:
        return await _run_main_thread(children, fn, args, described)

    with interrupts():
        return _run_in_time(adapter, in_thread, "aevent main thread", clock, options)


def _run_in_time(
    adapter: HostBackend,
    body: Callable[[_core.Children, _HandlerFailed], Awaitable[Any]],
    name: str,
    clock: AbstractContextManager[object] | None,
    options: dict[str, Any],
) -> Any:
    if clock is None:
        return adapter.run(lambda: _run_on_host(adapter, body), name, options)
    try:
        return adapter.run(lambda: _run_on_host(adapter, body, clock), name, options)
    finally:
        # It may have run ahead. Nothing has a deadline now.
        _core.give_up_clock()


class _HandlerFailed:
    """What a signal handler raises while no main task of ours could: the program ends with it.

    That is so while an async function is run by a host, and when the main function has ended and a
    host waits for the threads that it has left. Both are cancelled, and the exception is kept to be
    raised when they have ended. One that comes after the first is raised right where it is.
    """

    def __init__(self, adapter: HostBackend, children: _core.Children) -> None:
        self._adapter = adapter
        self._children = children
        self._main = adapter.task_identity()
        self._scope: HostScope | None = None
        self.error: BaseException | None = None

    def __call__(self, error: BaseException) -> bool:
        in_body = self._scope is not None and self._adapter.task_identity() == self._main
        if in_body or self.error is not None:
            return False
        self.error = error
        if self._scope is None:
            self._children.cancel()
        else:
            self._scope.cancel()
        return True

    @contextmanager
    def cancels_body(self) -> Iterator[None]:
        self._scope = self._adapter.open_scope(math.inf, False)
        try:
            with self._scope:
                yield
        finally:
            self._scope = None


async def _run_on_host(
    adapter: HostBackend,
    body: Callable[[_core.Children, _HandlerFailed], Awaitable[Any]],
    clock: AbstractContextManager[object] | None = None,
) -> Any:
    result: Any = None
    failure: BaseException | None = None
    with wakeups(), contextlib.ExitStack() as until_threads_end:
        async with runner(_adapter=adapter) as children:
            if clock is not None:
                until_threads_end.enter_context(clock)
            failed = _HandlerFailed(adapter, children)
            if in_main_os_thread():
                _core.on_handler_failure(failed)
            try:
                result = await body(children, failed)
            except adapter.cancelled:
                _core.on_handler_failure(None)
                raise
            except BaseException as error:
                # A runner that is left by an exception cancels its threads. A program whose main
                # function fails waits for them, as a threaded one does.
                failure = error
    if in_main_os_thread():
        _core.on_handler_failure(None)
    failure = failed.error or failure
    if failure is not None:
        try:
            raise failure
        finally:
            del failure
    return result


@contextmanager
def _main_thread(fn: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """`fn`, telling the green threads of the program when it has ended."""
    global main_over
    if threading.current_thread() is not threading.main_thread():
        yield fn
        return
    over = _core.Event()

    async def main_of_async(*args: Any) -> Any:
        try:
            return await fn(*args)
        finally:
            over.set()

    def main(*args: Any) -> Any:
        try:
            return check_not_coroutine(fn, fn(*args))
        finally:
            over.set()

    main_over = over
    try:
        yield main_of_async if is_coroutine_function(fn) else main
    finally:
        main_over = None


def check_not_coroutine(fn: Callable[..., Any], result: Any) -> Any:
    """`result`, unless it is a coroutine that nobody would ever await."""
    if isinstance(result, Coroutine):
        result.close()
        raise TypeError(
            f"{fn!r} was taken for a synchronous function, but it returned the coroutine object "
            f"{result!r}: pass the async function itself"
        )
    return result


async def _run_main_thread(
    children: _core.Children,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    described: Callable[..., Any],
) -> Any:
    task, scope = _core.start_main(fn, args, children, described)
    try:
        await wait(task._finished_wait())
    except BaseException:
        scope.cancel()
        with CancelScope(shield=True):
            await wait(task._finished_wait())
        with contextlib.suppress(Cancelled):
            task.result()
        raise
    return check_not_coroutine(fn, task.result())


@contextmanager
def _named_to_sniffio(is_async: bool) -> Iterator[None]:
    """Has sniffio say "aevent" in this OS thread, if its main task is async.

    Once it is patched, each task has a name of its own; until then green threads see this one, too.
    """
    if not is_async:
        yield
        return
    import sniffio  # importing aevent need not import it

    former, sniffio.thread_local.name = sniffio.thread_local.name, "aevent"
    try:
        yield
    finally:
        sniffio.thread_local.name = former


@contextmanager
def driving_natively(
    token: NativeToken, generators: AsyncGenerators, is_async: bool = True
) -> Iterator[None]:
    """Around `run_native`, which may be called several times for one `token` and its children."""
    former = _runner.set(token.children)
    try:
        with (
            interrupts(),
            wakeups(),
            token.stands_for_thread(),
            generators.watched(),
            _named_to_sniffio(is_async),
        ):
            yield
    finally:
        _runner.reset(former)


def _run_natively(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    name: object,
    clock: AbstractContextManager[object] | None = None,
) -> Any:
    children = _core.Children(keeps_errors=False)
    token = NativeToken(children)
    generators = AsyncGenerators(token)
    try:
        is_async = is_coroutine_function(fn)
        with (
            clock or contextlib.nullcontext(),
            driving_natively(token, generators, is_async),
            watched(None),
        ):
            if is_async:

                async def main() -> Any:
                    try:
                        return await fn(*args)
                    finally:
                        try:
                            await _end_threads(children, abandon_daemons)
                        finally:
                            await generators.close_all()

                return _core.run_native(None, (), main(), children, name)

            def main_of_sync() -> Any:
                try:
                    return check_not_coroutine(fn, fn(*args))
                finally:
                    try:
                        _end_threads_in_thread(children)
                    finally:
                        _core.await_here(generators.close_all())

            return _core.run_native(main_of_sync, (), None, children, name)
    finally:
        token.end()
        # A test's clock may have run ahead. Nothing has a deadline now.
        _core.give_up_clock()


async def _end_threads(children: _core.Children, abandon: bool) -> None:
    """Waits for the threads that are no daemons, then cancels the daemons and waits for those."""
    try:
        _tell_of_end(children)
        await wait(children.wait_empty(daemons_too=False))
    finally:
        if abandon:
            children.abandon()
        else:
            children.cancel()
            with CancelScope(shield=True):
                await wait(children.wait_empty())
            children.close()
        _tell_all_ended(children, abandon)


def _tell_of_end(children: _core.Children) -> None:
    for tell in before_threads_end:
        tell(children)


def _tell_all_ended(children: _core.Children, abandoned: bool) -> None:
    for tell in after_threads_end:
        tell(children, abandoned)


def _end_threads_in_thread(children: _core.Children) -> None:
    try:
        _tell_of_end(children)
        children.wait_empty(daemons_too=False).block()
    finally:
        if abandon_daemons:
            children.abandon()
        else:
            children.cancel()
            with CancelScope(shield=True):
                children.wait_empty().block()
            children.close()
        _tell_all_ended(children, abandon_daemons)


@asynccontextmanager
async def runner(*, _adapter: HostBackend | None = None) -> AsyncIterator[_core.Children]:
    """The home of the green threads that are started in the body.

    For programs that `trio.run`, `asyncio.run` or `anyio.run` has started; `aevent.run` brings one
    of its own. Leaving it waits for the threads that are no daemons and then cancels the daemons;
    if it is left by an exception, all are cancelled. Nests.

    Raises `AeventError` where neither trio nor asyncio nor aevent runs.
    """
    if _core.driver() == "native" or _core.task_kind() == "coroutine":
        children = _core.Children(keeps_errors=False)
        token = _runner.set(children)
        former = _core.set_home(children)
        try:
            try:
                yield children
            except BaseException:
                children.cancel()
                raise
            finally:
                await _end_threads(children, False)
        finally:
            _core.set_home(former)
            _runner.reset(token)
        return
    # The host may have been imported since `setup`, and is about to be used with patched code.
    before_run()
    adapter = _core.get_host()
    if adapter is None:
        adapter = _adapter or load(_running_host())()
    assert isinstance(adapter, HostBackend)
    is_outermost = _core.get_host() is None
    adapter.attach()
    try:
        if adapter.portals_for_all:
            # The running task has one, too, from its next step on.
            await checkpoint()
        with watched(adapter) if is_outermost else contextlib.nullcontext():
            children = _core.Children(keeps_errors=False)
            token = _runner.set(children)
            former = _core.set_home(children)
            try:
                try:
                    yield children
                except BaseException:
                    children.cancel()
                    raise
                finally:
                    await _end_threads(children, _adapter is not None and abandon_daemons)
            finally:
                _core.set_home(former)
                _runner.reset(token)
    finally:
        adapter.detach()


def _running_host() -> str:
    """Which host's task is running."""
    import sniffio  # only programs that bring a loop of their own have need of it

    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        raise AeventError(
            "aevent.runner() was entered outside trio, asyncio and aevent: use aevent.run()"
        ) from None
