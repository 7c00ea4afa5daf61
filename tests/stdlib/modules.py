"""Which of CPython's test modules are run, and where they are found."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

#: All that the standard library has on waiting, threads, descriptors and processes.
MODULES = tuple(
    """
    test_socket test_socketserver test_select test_poll test_epoll test_selectors test_ssl
    test_threading test_threading_local test_thread test_threadsignals test_threadedtempfile
    test_queue test_sched test_time test_timeout test_signal test_subprocess test_os
    test_posix test_popen test_httplib test_httpservers test_urllib test_urllib2
    test_urllib2_localnet test_urllib_response test_ftplib test_smtplib test_imaplib
    test_poplib test_nntplib test_telnetlib test_xmlrpc test_docxmlrpc test_wsgiref
    test_logging test_concurrent_futures test_asyncore test_asynchat test_smtpd
    test_contextlib test_context test_fork1 test_wait3 test_wait4 test_pty test_openpty
    test_pipes test_atexit test_weakref test_weakset test_io test_file_eintr
    test_robotparser test_functools test_faulthandler test_multiprocessing_fork
    test_multiprocessing_spawn test_multiprocessing_main_handling test_asyncio
    """.split()  # noqa: SIM905 - a list of so many lines says no more
)

#: What `python -m test -u …` allows. Without the network, and without files of gigabytes.
RESOURCES = ("cpu", "walltime", "subprocess", "curses", "decimal", "tzdata")
#: These ask for the network and use the loopback interface.
WITH_NETWORK = ("test_socketserver", "test_timeout")

#: The packages that `python -m test` takes apart, as it does.
SPLIT = (
    "test_asyncio",
    "test_concurrent_futures",
    "test_multiprocessing_fork",
    "test_multiprocessing_spawn",
)


class Module(NamedTuple):
    """A module of tests, or a part of a package of them."""

    name: str
    """Below `test`: "test_queue", "test_asyncio.test_tasks"."""
    path: str | None
    """What `test` must be imported from, if not from the interpreter's own library."""

    @property
    def table(self) -> str:
        """The line of the table in which it is counted."""
        return self.name.partition(".")[0]

    @property
    def resources(self) -> list[str]:
        extra = ["network"] if self.table in WITH_NETWORK else []
        return [*RESOURCES, *extra]


def _own() -> Path:
    return Path(sysconfig.get_path("stdlib")) / "test"


def _others(extra: str | None) -> list[Path]:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = [Path(extra)] if extra else []
    return [*found, Path("/usr/lib") / version / "test"]


def find(names: list[str], cache: Path, extra: str | None) -> tuple[list[Module], dict[str, str]]:
    """The modules of these names, and why some are not there.

    `extra` is a folder `test` that has what this Python's installation lacks; Debian has one in
    /usr/lib when its package libpython3.x-testsuite is installed.
    """
    modules: list[Module] = []
    absent: dict[str, str] = {}
    for name in names:
        first = name.partition(".")[0]
        for root in (_own(), *_others(extra)):
            if (root / first).is_dir() or (root / f"{first}.py").is_file():
                break
        else:
            absent[name] = "not in this Python's test package"
            continue
        path = None if root == _own() else str(_merged(root, cache))
        parts = [name]
        if name in SPLIT and (root / name).is_dir():
            parts = [f"{name}.{each.stem}" for each in sorted((root / name).glob("test_*.py"))]
        modules += [Module(part, path) for part in parts]
    return modules, absent


def _merged(extra: Path, cache: Path) -> Path:
    """A folder whose `test` is the interpreter's, with what it lacks from `extra`.

    Made of links: the children of tests import the package by its name, so it has to be one.
    """
    merged = cache / "testsuite"
    package = merged / "test"
    package.mkdir(parents=True, exist_ok=True)
    for root in (_own(), extra):
        for each in root.iterdir():
            link = package / each.name
            if each.name != "__pycache__" and not link.is_symlink():
                try:
                    link.symlink_to(each)
                except FileExistsError:
                    pass  # another process does the same
    return merged
