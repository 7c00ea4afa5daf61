"""Waiting for descriptors that are not ours."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

import aevent
from aevent import _core


def test_a_cancelled_wait_does_not_say_that_something_is_ready(run: Callable[..., Any]) -> None:
    def main() -> None:
        left, right = socket.socketpair()
        with left, right, aevent.move_on_after(0.01) as scope:
            _core.wait_descriptors([(left.fileno(), True, False)])
            pytest.fail("it was not ready")
        assert scope.cancelled_caught

    run(main)


def test_a_wait_ends_when_one_is_ready_or_the_time_is_over(run: Callable[..., Any]) -> None:
    def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            wanted = [(left.fileno(), True, False), (right.fileno(), True, False)]
            assert not _core.wait_descriptors(wanted, 0.001)
            left.send(b"x")
            assert _core.wait_descriptors(wanted, 30)

    run(main)
