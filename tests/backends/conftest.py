"""The tests here run in a patched process; pytest itself is outside tasks and keeps the originals."""

from __future__ import annotations

import aevent

aevent.setup("native")
