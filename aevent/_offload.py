"""Real threads for calls that block in C."""

from __future__ import annotations

from ._core import offload as offload
