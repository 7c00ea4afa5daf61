"""Async generators that are left before their end are closed in the loop. Semantics trio's."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from . import _entry
from ._core import CancelScope
from ._exceptions import RunFinishedError

logger = logging.getLogger("aevent.async_generator_errors")


class AsyncGenerators:
    """The async generators that were begun in a run of the native loop and have not ended.

    One that is collected as garbage, or left when the program's main function has ended, is closed
    in a scope that is cancelled: its `finally` blocks run, and cannot wait there. What they raise
    is logged. Collecting one gives a `ResourceWarning`.
    """

    def __init__(self, token: _entry.Token) -> None:
        self._begun: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._token = token

    @contextmanager
    def watched(self) -> Iterator[AsyncGenerators]:
        """Has the interpreter tell us of the generators that are begun in this OS thread."""
        former = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._first_iteration, self._collected)
        try:
            yield self
        finally:
            sys.set_asyncgen_hooks(*former)

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._begun.add(generator)
        # Who closes it must be there when the collector finds it, which may be in the middle of
        # anything.
        _entry.serve()

    def _collected(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Called by the collector: anywhere, in any thread."""
        self._begun.discard(generator)
        name = _name_of(generator)
        try:
            self._token.run_sync_soon(functools.partial(self._close_soon, generator, name))
        except RunFinishedError:
            # Its `finally` blocks could only have run in that loop.
            return
        # Last, since it may raise.
        warnings.warn(
            f"the async generator {name} was collected before it was exhausted. Use it in "
            "'async with aclosing(…):', so that it is closed where it is left.",
            ResourceWarning,
            stacklevel=2,
            source=generator,
        )

    def _close_soon(self, generator: AsyncGenerator[Any, Any], name: str) -> None:
        _entry.spawn_system_task(_close, generator, name)

    async def close_all(self) -> None:
        """Closes those that are left, and those that they begin while they are closed."""
        while self._begun:
            batch = list(self._begun)
            self._begun.clear()
            for generator in batch:
                await _close(generator, _name_of(generator))


async def _close(generator: AsyncGenerator[Any, Any], name: str) -> None:
    try:
        # It cannot wait: whatever it waits for may never come, and nobody waits for it.
        with CancelScope(shield=True) as scope:
            scope.cancel()
            await generator.aclose()
    except BaseException:
        logger.exception("the async generator %s raised while it was closed", name)


def _name_of(generator: AsyncGenerator[Any, Any]) -> str:
    code = getattr(generator, "ag_code", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{getattr(generator, '__qualname__', generator)!r}{where}"
