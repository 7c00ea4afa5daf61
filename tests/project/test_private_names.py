"""The private names of others that aevent uses, all of them, with the Pythons that have them.

They change without notice. A name that is gone, that has come to a Python of which the table says
it has none, or that is used and not in the table, fails here and not in somebody's program.
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing.pool
import re
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ALWAYS = "3.10-3.14"

#: By module. Names in a class may be attributes of its objects, see `EXAMPLES`.
PRIVATE = {
    "asyncio.base_events": {"BaseEventLoop.run_in_executor": ALWAYS},
    "asyncio.events": {
        "BaseDefaultEventLoopPolicy._Local": "3.10-3.13",
        "_event_loop_policy": ALWAYS,
        "_set_running_loop": ALWAYS,
    },
    "atexit": {"_run_exitfuncs": ALWAYS},
    "concurrent.futures.process": {
        "ProcessPoolExecutor._spawn_process": ALWAYS,
        "_ExecutorManagerThread": ALWAYS,
    },
    "concurrent.futures.thread": {
        "ThreadPoolExecutor._broken": ALWAYS,
        "ThreadPoolExecutor._idle_semaphore": ALWAYS,
        "ThreadPoolExecutor._shutdown": ALWAYS,
        "ThreadPoolExecutor._shutdown_lock": ALWAYS,
        "ThreadPoolExecutor._threads": ALWAYS,
        "ThreadPoolExecutor._work_queue": ALWAYS,
        "_global_shutdown_lock": ALWAYS,
    },
    "importlib": {"_bootstrap": ALWAYS},
    "importlib._bootstrap": {"_thread": ALWAYS},
    "logging": {"_lock": ALWAYS},
    "multiprocessing.connection": {"Connection._recv": ALWAYS, "Connection._send": ALWAYS},
    "multiprocessing.pool": {
        "Pool._state": ALWAYS,
        "Pool._terminate": ALWAYS,
        "Pool._terminate_pool": ALWAYS,
        "Pool._worker_handler": ALWAYS,
    },
    "multiprocessing.queues": {"Queue._start_thread": ALWAYS},
    "multiprocessing.resource_sharer": {
        "_ResourceSharer": ALWAYS,
        "_ResourceSharer._start": ALWAYS,
    },
    "multiprocessing.util": {"_exit_function": ALWAYS},
    "queue": {"Queue._get": ALWAYS, "Queue._put": ALWAYS, "Queue._qsize": ALWAYS},
    "runpy": {"_run_module_as_main": ALWAYS},
    "socket": {
        "SocketIO._checkClosed": ALWAYS,
        "SocketIO._checkReadable": ALWAYS,
        "SocketIO._checkWritable": ALWAYS,
        "SocketIO._reading": ALWAYS,
        "SocketIO._sock": ALWAYS,
        "SocketIO._timeout_occurred": ALWAYS,
        "SocketIO._writing": ALWAYS,
        "_GiveupOnSendfile": ALWAYS,
        "socket._accept": ALWAYS,
        "socket._check_sendfile_params": ALWAYS,
        "socket._sendfile_use_send": ALWAYS,
        "socket._sendfile_use_sendfile": ALWAYS,
    },
    "socketserver": {"_SocketWriter": ALWAYS, "_SocketWriter._sock": ALWAYS},
    "ssl": {
        "SSLSocket._checkClosed": ALWAYS,
        "SSLSocket._check_connected": ALWAYS,
        "SSLSocket._create": ALWAYS,
        "SSLSocket._sslobj": ALWAYS,
    },
    "sys": {"_current_frames": ALWAYS, "_getframe": ALWAYS},
    "_thread": {"_count": ALWAYS, "_local": ALWAYS, "RLock._is_owned": ALWAYS},
    "threading": {
        "Condition._acquire_restore": ALWAYS,
        "Condition._at_fork_reinit": ALWAYS,
        "Condition._is_owned": ALWAYS,
        "Condition._release_save": ALWAYS,
        "Thread._args": ALWAYS,
        "Thread._context": "3.14-3.14",
        "Thread._handle": "3.13-3.14",
        "Thread._ident": ALWAYS,
        "Thread._initialized": ALWAYS,
        "Thread._invoke_excepthook": ALWAYS,
        "Thread._kwargs": ALWAYS,
        "Thread._native_id": ALWAYS,
        "Thread._os_thread_handle": "3.14-3.14",
        "Thread._started": ALWAYS,
        "Thread._target": ALWAYS,
        "Thread._tstate_lock": "3.10-3.12",
        "_CRLock": ALWAYS,
        "_DummyThread": ALWAYS,
        "_active": ALWAYS,
        "_allocate_lock": ALWAYS,
        "_shutdown": ALWAYS,
    },
    # Packages, in the versions that are installed for development.
    "anyio._core._eventloop": {"claim_worker_thread": ALWAYS, "loaded_backends": ALWAYS},
    "anyio._backends._asyncio": {"CancelScope._parent_scope": ALWAYS, "_task_states": ALWAYS},
    "anyio._core._sockets": {"convert_ipv6_sockaddr": ALWAYS},
    "anyio._core._tasks": {"TaskHandle._run_coro": ALWAYS, "TaskHandle._start_value": ALWAYS},
    "anyio.abc._eventloop": {"AsyncBackend": ALWAYS},
    "anyio.abc._tasks": {
        "call_for_coroutine": ALWAYS,
        "get_callable_name": ALWAYS,
        "get_coro_name": ALWAYS,
    },
    "greenlet": {"greenlet._stack_saved": ALWAYS},
    "grpc._channel": {
        "_StreamUnaryMultiCallable._blocking": ALWAYS,
        "_UnaryUnaryMultiCallable._blocking": ALWAYS,
    },
    "httpcore._backends.auto": {"current_async_library": ALWAYS},
    "httpcore._synchronization": {"current_async_library": ALWAYS},
    "httpx._transports.asgi": {"create_event": ALWAYS},
    "psycopg.connection": {"_INTERRUPTED": ALWAYS},
    "trio._threads": {"_send_message_to_trio": ALWAYS},
    "trio._core._io_epoll": {"EpollIOManager.get_events": ALWAYS},
    "trio._core._run": {
        "CancelStatus._scope": ALWAYS,
        "GLOBAL_RUN_CONTEXT": ALWAYS,
        "Runner.deliver_ki": ALWAYS,
        "Task._cancel_status": ALWAYS,
        "run": ALWAYS,
    },
}

#: Used where they are, and done without elsewhere; nothing says which builds have them.
WHERE_THERE = {
    # asyncio.Task in Python; that in C is dealt with in Rust.
    "_coro",
    # The policy's `threading.local`.
    "_local",
}


def unconnected() -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context.wrap_socket(socket.socket(), server_hostname="localhost")


@contextmanager
def on_a_socket(make: Any) -> Iterator[Any]:
    with socket.socket() as sock, closing(make(sock)) as file:
        yield file


#: What has the attributes that a class has not, and how it is done with.
EXAMPLES: dict[str, Any] = {
    "concurrent.futures.thread.ThreadPoolExecutor": lambda: closing(Ended(ThreadPoolExecutor(1))),
    "multiprocessing.pool.Pool": lambda: closing(Ended(multiprocessing.pool.ThreadPool(1))),
    "socket.SocketIO": lambda: on_a_socket(lambda sock: socket.SocketIO(sock, "r")),
    "socketserver._SocketWriter": lambda: on_a_socket(vars(socketserver)["_SocketWriter"]),
    "ssl.SSLSocket": lambda: closing(unconnected()),
    "threading.Condition": lambda: closing(Ended(threading.Condition())),
    "threading.Thread": lambda: closing(Ended(threading.Thread())),
}


class Ended:
    """Gives an object's attributes; to close it ends the threads that the object has."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def close(self) -> None:
        for end in ("shutdown", "terminate", "join"):
            if hasattr(self.inner, end) and not isinstance(self.inner, threading.Thread):
                getattr(self.inner, end)()


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("module", PRIVATE)
def test_a_private_name_is_there_in_the_pythons_that_the_table_says(module: str) -> None:
    if module.partition(".")[0] in ("grpc", "psycopg"):
        pytest.importorskip(module)
    loaded = importlib.import_module(module)
    for path, pythons in PRIVATE[module].items():
        first, last = map(version, pythons.split("-"))
        kind, _, name = path.rpartition(".")
        owner: Any = getattr(loaded, kind) if kind else loaded
        is_there = hasattr(owner, name)
        if not is_there and f"{module}.{kind}" in EXAMPLES:
            with EXAMPLES[f"{module}.{kind}"]() as example:
                is_there = hasattr(example, name)
        assert is_there == (first <= sys.version_info[:2] <= last), f"{module}.{path}"


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[a-zA-Z]\w*", name) is not None and not name.startswith("_aevent")


def sources() -> Iterator[Path]:
    for folder in (ROOT / "aevent", ROOT / "backends"):
        yield from (path for path in folder.rglob("*.py") if "_backends" not in path.parts)


def test_every_private_name_in_use_is_in_the_table() -> None:
    """As far as can be seen from the name: what aevent calls by the same name is not reported."""
    ours = {path.stem for path in sources()} | {"_core"}
    used: dict[str, str] = {}
    for path in [*sources(), ROOT / "aevent/_core.pyi"]:
        for node in ast.walk(ast.parse(path.read_text())):
            name: object = None
            match node:
                case ast.FunctionDef(name=defined) | ast.AsyncFunctionDef(name=defined):
                    ours.add(defined)
                case ast.ClassDef(name=defined) | ast.Name(id=defined, ctx=ast.Store()):
                    ours.add(defined)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                    ours.add(node.attr)
                case ast.Attribute(attr=name) | ast.Call(args=[_, ast.Constant(value=name), *_]):
                    pass
            if isinstance(name, str) and is_private(name):
                used.setdefault(name, f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    for path in (ROOT / "rust/python/src").rglob("*.rs"):
        for name in re.findall(r'(?:getattr\w*|method\w*)\((?:py, )?"(\w+)"', path.read_text()):
            if is_private(name):
                used.setdefault(name, str(path.relative_to(ROOT)))
    known = {path.rpartition(".")[2] for names in PRIVATE.values() for path in names}
    modules = {part for module in PRIVATE for part in module.split(".")}
    assert {
        name: where
        for name, where in used.items()
        if name not in ours | known | modules | WHERE_THERE
    } == {}
