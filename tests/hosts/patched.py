"""A pytest plugin that patches the process before anything of the suite is imported."""

from __future__ import annotations

import os

import aevent

aevent.setup(os.environ["AEVENT_SUITE_BACKEND"])
