"""`tempfile`, `pipes` and `faulthandler` in threads."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest

from tests.monkey.heartbeat import heartbeat


def test_temporary_files_of_many_threads() -> None:
    names: list[str] = []

    def work(number: int) -> None:
        for _ in range(5):
            with tempfile.NamedTemporaryFile("w+", suffix=f".{number}") as file:
                names.append(file.name)
                file.write(f"of {number}")
                time.sleep(0)
                file.seek(0)
                assert file.read() == f"of {number}"
            with tempfile.SpooledTemporaryFile(max_size=10) as spooled:
                spooled.write(b"more than fits")
                time.sleep(0)
                spooled.seek(0)
                assert spooled.read() == b"more than fits"

    with heartbeat():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(names)) == 50
    assert not any(map(os.path.exists, names))


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="removed in Python 3.13")
def test_a_pipeline() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pipes = importlib.import_module("pipes")
    template = pipes.Template()
    template.append("tr a-z A-Z", "--")
    with tempfile.TemporaryDirectory() as folder, heartbeat() as heart:
        path = Path(folder) / "out"
        with template.open(str(path), "w") as file:
            file.write("hello")
        assert path.read_text() == "HELLO"
        slow = pipes.Template()
        # The shell waits until the heart has beaten.
        fifo = Path(folder) / "fifo"
        os.mkfifo(fifo)
        slow.append(f"cat {fifo}", "--")
        heart.after_ticks(lambda: fifo.write_text("beaten"))
        with slow.open(str(path), "r") as file:
            assert file.read() == "beaten"


def test_the_stack_of_a_thread_that_hangs_is_written() -> None:
    def a_function_of_this_test() -> None:
        faulthandler.dump_traceback(file, all_threads=False)

    with tempfile.TemporaryFile() as file, heartbeat():
        thread = threading.Thread(target=a_function_of_this_test)
        thread.start()
        thread.join()
        file.seek(0)
        assert b"a_function_of_this_test" in file.read()
