"""anyio's cancel scopes: ours, under anyio's type."""

from __future__ import annotations

import anyio

from ... import _core


class CancelScope(_core.CancelScope, anyio.CancelScope):  # type: ignore[misc]
    """`anyio.CancelScope` on the native scheduler. Everything in it is `_core.CancelScope`'s."""

    __slots__ = ()
