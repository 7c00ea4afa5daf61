"""The tests here run in a patched process; pytest itself runs outside tasks, unaffected."""

from __future__ import annotations

import aevent

aevent.setup("native")
