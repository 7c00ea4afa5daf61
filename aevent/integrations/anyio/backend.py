"""anyio's contract for backends, fulfilled: each method says what does it."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from signal import Signals
from typing import IO, Any

import anyio
from anyio import abc
from anyio.abc._eventloop import AsyncBackend

from ... import _core, _run, from_thread, to_thread
from ..._entry import Token, current_token, spawn_system_task
from ..._exceptions import AeventError
from . import processes, sockets, tasks, threads
from .groups import TaskGroup
from .runner import TestRunner
from .scopes import CancelScope
from .signals import SignalReceiver
from .sync import CapacityLimiter, Event, Lock, Semaphore


class Backend(AsyncBackend):
    """`anyio.run(main, backend="aevent")`."""

    @classmethod
    def run(
        cls,
        func: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
    ) -> Any:
        async def main() -> Any:
            return await func(*args, **kwargs)

        main.__module__ = func.__module__
        main.__qualname__ = getattr(func, "__qualname__", repr(func))
        if _core.task_kind() != "green":
            return _run.run(main, backend="native", **options)
        if options:
            raise AeventError("a green thread's anyio.run(…, backend='aevent') has no options")
        if _core.driver() == "native":
            # Its OS thread's loop is one of ours already, and serves this program, too.
            return _core.await_here(main())
        return _core.offload(_run.run, main, backend="native")

    @classmethod
    def current_token(cls) -> Token:
        return current_token()

    @classmethod
    def current_time(cls) -> float:
        return _core.current_time()

    @classmethod
    def cancelled_exception_class(cls) -> type[BaseException]:
        return _core.Cancelled

    @classmethod
    async def checkpoint(cls) -> None:
        await _core.Checkpoint()

    @classmethod
    async def checkpoint_if_cancelled(cls) -> None:
        _core.checkpoint_if_cancelled()

    @classmethod
    async def cancel_shielded_checkpoint(cls) -> None:
        with _core.CancelScope(shield=True):
            await _core.Checkpoint()

    @classmethod
    async def sleep(cls, delay: float) -> None:
        if delay <= 0:
            await _core.Checkpoint()
        else:
            await _core.Sleep(_core.current_time() + delay)

    @classmethod
    def create_cancel_scope(
        cls, *, deadline: float = math.inf, shield: bool = False
    ) -> anyio.CancelScope:
        return CancelScope(deadline=deadline, shield=shield)

    @classmethod
    def current_effective_deadline(cls) -> float:
        return _core.current_effective_deadline()

    @classmethod
    def create_task_group(cls) -> abc.TaskGroup:
        return TaskGroup(_scope=CancelScope())

    @classmethod
    def create_event(cls) -> anyio.Event:
        return Event()

    @classmethod
    def create_lock(cls, *, fast_acquire: bool) -> anyio.Lock:
        return Lock(fast_acquire=fast_acquire)

    @classmethod
    def create_semaphore(
        cls, initial_value: int, *, max_value: int | None = None, fast_acquire: bool = False
    ) -> anyio.Semaphore:
        return Semaphore(initial_value, max_value=max_value, fast_acquire=fast_acquire)

    @classmethod
    def create_capacity_limiter(cls, total_tokens: float) -> anyio.CapacityLimiter:
        return CapacityLimiter(total_tokens)

    @classmethod
    async def run_sync_in_worker_thread(
        cls,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool = False,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> Any:
        return await threads.run_in_worker(cls, func, args, abandon_on_cancel, limiter)

    @classmethod
    def check_cancelled(cls) -> None:
        from_thread.check_cancelled()

    @classmethod
    def run_async_from_thread(
        cls, func: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], token: Any
    ) -> Any:
        return threads.run_async(func, args, token)

    @classmethod
    def run_sync_from_thread(
        cls, func: Callable[..., Any], args: tuple[Any, ...], token: Any
    ) -> Any:
        return threads.run_sync(func, args, token)

    @classmethod
    def run_sync_soon(cls, func: Callable[..., object], args: tuple[Any, ...], token: Any) -> None:
        threads.run_sync_soon(func, args, token)

    @classmethod
    async def open_process(
        cls,
        command: Any,
        *,
        stdin: int | IO[Any] | None,
        stdout: int | IO[Any] | None,
        stderr: int | IO[Any] | None,
        **kwargs: Any,
    ) -> abc.Process:
        return await processes.open_process(
            command, stdin=stdin, stdout=stdout, stderr=stderr, **kwargs
        )

    @classmethod
    def setup_process_pool_exit_at_shutdown(cls, workers: set[abc.Process]) -> None:
        spawn_system_task(processes.kill_at_shutdown, workers, name="anyio's process pool")

    @classmethod
    async def connect_tcp(
        cls, host: str, port: int, local_address: abc.IPSockAddrType | None = None
    ) -> abc.SocketStream:
        return await sockets.connect_tcp(host, port, local_address)

    @classmethod
    async def connect_unix(cls, path: str | bytes, kind: Any) -> abc.UNIXSocketStream:
        return await sockets.connect_unix(path, kind)

    @classmethod
    def create_tcp_listener(cls, sock: socket.socket) -> abc.SocketListener:
        return sockets.TCPListener(sock)

    @classmethod
    def create_unix_listener(cls, sock: socket.socket) -> abc.SocketListener:
        return sockets.UNIXListener(sock)

    @classmethod
    async def create_udp_socket(
        cls,
        family: socket.AddressFamily,
        local_address: abc.IPSockAddrType | None,
        remote_address: abc.IPSockAddrType | None,
        reuse_port: bool,
    ) -> abc.UDPSocket | abc.ConnectedUDPSocket:
        return await sockets.create_udp_socket(family, local_address, remote_address, reuse_port)

    @classmethod
    async def create_unix_datagram_socket(  # type: ignore[override]
        cls, raw_socket: socket.socket, remote_path: str | bytes | None
    ) -> abc.UNIXDatagramSocket | abc.ConnectedUNIXDatagramSocket:
        return await sockets.create_unix_datagram_socket(raw_socket, remote_path)

    @classmethod
    async def getaddrinfo(
        cls,
        host: bytes | str | None,
        port: str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return await to_thread.run_sync(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True
        )

    @classmethod
    async def getnameinfo(cls, sockaddr: abc.IPSockAddrType, flags: int = 0) -> tuple[str, str]:
        return await to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)

    @classmethod
    async def wait_readable(cls, obj: Any) -> None:
        await sockets.wait_for_descriptor(obj, False)

    @classmethod
    async def wait_writable(cls, obj: Any) -> None:
        await sockets.wait_for_descriptor(obj, True)

    @classmethod
    def notify_closing(cls, obj: Any) -> None:
        sockets.notify_closing(obj)

    @classmethod
    async def wrap_listener_socket(cls, sock: socket.socket) -> abc.SocketListener:
        if sock.family == socket.AF_UNIX:
            return sockets.UNIXListener(sock)
        return sockets.TCPListener(sock)

    @classmethod
    async def wrap_stream_socket(cls, sock: socket.socket) -> abc.SocketStream:
        return sockets.SocketStream(sock)

    @classmethod
    async def wrap_unix_stream_socket(cls, sock: socket.socket) -> abc.UNIXSocketStream:
        return sockets.UNIXSocketStream(sock)

    @classmethod
    async def wrap_udp_socket(cls, sock: socket.socket) -> abc.UDPSocket:
        return sockets.UDPSocket(sock)

    @classmethod
    async def wrap_connected_udp_socket(cls, sock: socket.socket) -> abc.ConnectedUDPSocket:
        return sockets.ConnectedUDPSocket(sock)

    @classmethod
    async def wrap_unix_datagram_socket(cls, sock: socket.socket) -> abc.UNIXDatagramSocket:
        return sockets.UNIXDatagramSocket(sock)

    @classmethod
    async def wrap_connected_unix_datagram_socket(
        cls, sock: socket.socket
    ) -> abc.ConnectedUNIXDatagramSocket:
        return sockets.ConnectedUNIXDatagramSocket(sock)

    @classmethod
    def current_default_thread_limiter(cls) -> anyio.CapacityLimiter:
        return threads.default_limiter()

    @classmethod
    def open_signal_receiver(
        cls, *signals: Signals
    ) -> AbstractContextManager[AsyncIterator[Signals]]:
        return SignalReceiver(signals)

    @classmethod
    def get_current_task(cls) -> anyio.TaskInfo:
        return tasks.current_task_info()

    @classmethod
    def get_running_tasks(cls) -> Sequence[anyio.TaskInfo]:
        return tasks.running_tasks()

    @classmethod
    async def wait_all_tasks_blocked(cls) -> None:
        await tasks.wait_all_blocked()

    @classmethod
    def create_test_runner(cls, options: dict[str, Any]) -> abc.TestRunner:
        return TestRunner(**options)
