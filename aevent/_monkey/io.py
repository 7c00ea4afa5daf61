"""`io`: files on pipes, terminals, FIFOs and sockets, whoever made them and when.

Three things make them cooperate, and the classes stay what they are:

- The methods of `FileIO`, in which every read and write ends, park where they would block. A file
  that can be positioned does not, and only has itself asked whether it can.
- The methods of the buffered classes wait their turn; see `_core.buffered_method`.
- `open()` of a FIFO waits for the other end in another thread.
"""

from __future__ import annotations

import _io
import builtins
import io
import os
import sys
from typing import Any

from .. import _core
from . import originals, patcher
from .os import _open_fifo

_open = io.open
_input = builtins.input
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
#: Their methods that take the lock in C.
_LOCKING = (
    "close",
    "detach",
    "flush",
    "peek",
    "read",
    "read1",
    "readinto",
    "readinto1",
    "readline",
    "seek",
    "tell",
    "truncate",
    "write",
)


class _Probe(io.RawIOBase):
    """A raw file that looks into the buffered one above while that reads or writes."""

    def __init__(self) -> None:
        self.above: Any = None
        self.found: list[set[int]] = []

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return 0

    def _look(self) -> None:
        if self.above is not None:
            self.found.append(set(_core.find_word(self.above, originals.get_ident())))

    def readinto(self, buffer: Any) -> int:
        self._look()
        return 0

    def write(self, data: Any) -> int:
        self._look()
        return len(data)


def find_owner() -> int | None:
    """Where in a buffered object the number of the thread lies that is inside. `None`: unknown."""
    places: set[int] | None = None
    for kind in _BUFFERED:
        probe = _Probe()
        buffered: Any = kind(probe)
        probe.above = buffered
        if kind is not io.BufferedWriter:
            buffered.read(1)
        if kind is not io.BufferedReader:
            buffered.write(b"x")
            buffered.flush()
        outside = set(_core.find_word(buffered, originals.get_ident()))
        zero = set(_core.find_word(buffered, 0))
        probe.above = None
        for found in probe.found:
            here = (found - outside) & zero
            places = here if places is None else places & here
    return places.pop() if places is not None and len(places) == 1 else None


def _open_for_fifos(
    file: Any,
    mode: Any = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    if opener is None and isinstance(mode, str) and "+" not in mode:
        opener = _open_fifo
    return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def _is_terminal(file: Any, fd: int) -> bool:
    try:
        return bool(file.fileno() == fd and os.isatty(fd))
    except Exception:
        return False


def input_(prompt: object = "", /) -> str:
    stdin, stdout = sys.stdin, sys.stdout
    if not (_is_terminal(stdin, 0) and _is_terminal(stdout, 1)):
        # The original calls `sys.stdin.readline()`, which cooperates.
        return _input(prompt)
    if "readline" in sys.modules:
        # It edits the line, in C.
        line: str = _core.offload(_input, prompt)
        return line
    sys.audit("builtins.input", prompt)
    if sys.stderr is not None:
        sys.stderr.flush()
    stdout.write(str(prompt))
    stdout.flush()
    line = stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    line = line.removesuffix("\n")
    sys.audit("builtins.input/result", line)
    return line


def patch() -> None:
    for name, new in _core.file_io_methods.items():
        patcher.method(io.FileIO, name, new)
    owner = find_owner()
    if owner is not None:
        _core.set_buffered_owner(owner)
        _core.watch_buffered(list(_BUFFERED))
        for kind in _BUFFERED:
            for name in _LOCKING:
                if name in vars(kind):
                    patcher.method(kind, name, _core.buffered_method(getattr(kind, name)))
    patcher.function(io, "open", _core.opener(_open, _open_for_fifos), also=_io)
    patcher.share(builtins, "open", io.open)
    patcher.function(builtins, "input", input_)
