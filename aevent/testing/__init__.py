"""Tools for tests of programs that use aevent. The pytest plugin needs no import."""

from __future__ import annotations

from ._mock_clock import MockClock as MockClock
from ._wait_all_tasks_blocked import wait_all_tasks_blocked as wait_all_tasks_blocked
