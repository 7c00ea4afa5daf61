"""anyio's socket streams, listeners and datagram sockets, on the reactor's readiness."""

from __future__ import annotations

import array
import errno
import socket
from collections.abc import Callable, Collection
from io import IOBase
from typing import Any, NoReturn

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, abc
from anyio._core._sockets import convert_ipv6_sockaddr
from anyio._core._synchronization import ResourceGuard

from ... import _core
from ..._monkey import originals

#: What is asked for of a datagram.
_DATAGRAM = 65536


def adopt(sock: socket.socket) -> socket.socket:
    """Makes a socket ours: non-blocking, and nothing that was known of its number counts."""
    sock.setblocking(False)
    _core.socket_opened(sock)
    return sock


class _Socket:
    """What all of them share."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = adopt(sock)
        self._closed = False
        self._receive_guard = ResourceGuard("reading from")
        self._send_guard = ResourceGuard("writing to")

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock

    async def aclose(self) -> None:
        """Closes it; who waits for it is told ClosedResourceError. A checkpoint."""
        if not self._closed:
            self._closed = True
            close(self._sock)
        await _core.Checkpoint()

    async def _call(self, method: Callable[..., Any], write: bool, *args: Any) -> Any:
        try:
            return await _core.SocketCall(self._sock, method, write, *args)
        except OSError as error:
            self._raise(error)

    def _raise(self, error: OSError) -> NoReturn:
        if self._closed:
            raise ClosedResourceError from None
        raise BrokenResourceError from error


def close(sock: socket.socket) -> None:
    """Closes a socket; whoever waits for it is woken."""
    _core.socket_closing(sock)
    sock.close()


class SocketStream(_Socket, abc.SocketStream):
    """`anyio.abc.SocketStream`."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        with self._receive_guard:
            data: bytes = await self._call(self._sock.recv, False, max_bytes)
        if data:
            return data
        raise EndOfStream

    async def send(self, item: bytes) -> None:
        with self._send_guard:
            send = self._sock.send
            sent: int = await self._call(send, True, item)
            if sent < len(item):
                view = memoryview(item)
                while sent < len(view):
                    view = view[sent:]
                    sent = await self._call(send, True, view)

    async def send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self._raise(error)


def _is_at_least(value: object, least: int) -> bool:
    return isinstance(value, int) and value >= least


class UNIXSocketStream(SocketStream, abc.UNIXSocketStream):
    """`anyio.abc.UNIXSocketStream`."""

    async def receive_fds(self, msglen: int, maxfds: int) -> tuple[bytes, list[int]]:
        if not _is_at_least(msglen, 0):
            raise ValueError("msglen must be a non-negative integer")
        if not _is_at_least(maxfds, 1):
            raise ValueError("maxfds must be a positive integer")
        fds = array.array("i")
        size = socket.CMSG_LEN(maxfds * fds.itemsize)
        with self._receive_guard:
            message, ancillary, _flags, _address = await self._call(
                self._sock.recvmsg, False, msglen, size
            )
        if not message and not ancillary:
            raise EndOfStream
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
                raise RuntimeError(
                    f"received unexpected ancillary data: level {level}, type {kind}, "
                    f"with the message {message!r}"
                )
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return message, list(fds)

    async def send_fds(self, message: bytes, fds: Collection[int | IOBase]) -> None:
        if not message:
            raise ValueError("message must not be empty")
        if not fds:
            raise ValueError("fds must not be empty")
        numbers = array.array("i", [fd if isinstance(fd, int) else fd.fileno() for fd in fds])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        view = memoryview(message)
        with self._send_guard:
            while view:
                sent = await self._call(self._sock.sendmsg, True, [view], ancillary)
                view = view[sent:]
                # They went with the first bytes.
                ancillary = []


class _Listener(_Socket):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._accept_guard = ResourceGuard("accepting connections from")

    async def _accept(self) -> socket.socket:
        with self._accept_guard:
            sock, _address = await self._call(self._sock.accept, False)
        accepted: socket.socket = sock
        return accepted


class TCPListener(_Listener, abc.SocketListener):
    """`anyio.abc.SocketListener` of TCP."""

    async def accept(self) -> abc.SocketStream:
        sock = await self._accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return SocketStream(sock)


class UNIXListener(_Listener, abc.SocketListener):
    """`anyio.abc.SocketListener` of UNIX sockets."""

    async def accept(self) -> abc.UNIXSocketStream:
        return UNIXSocketStream(await self._accept())


class UDPSocket(_Socket, abc.UDPSocket):
    """`anyio.abc.UDPSocket`."""

    async def receive(self) -> tuple[bytes, abc.IPSockAddrType]:
        with self._receive_guard:
            data, address = await self._call(self._sock.recvfrom, False, _DATAGRAM)
        return data, convert_ipv6_sockaddr(address)

    async def send(self, item: abc.UDPPacketType) -> None:
        with self._send_guard:
            await self._call(self._sock.sendto, True, *item)


class UNIXDatagramSocket(_Socket, abc.UNIXDatagramSocket):
    """`anyio.abc.UNIXDatagramSocket`."""

    async def receive(self) -> abc.UNIXDatagramPacketType:
        with self._receive_guard:
            data, address = await self._call(self._sock.recvfrom, False, _DATAGRAM)
        return data, address

    async def send(self, item: abc.UNIXDatagramPacketType) -> None:
        with self._send_guard:
            await self._call(self._sock.sendto, True, *item)


class _Connected(_Socket):
    async def receive(self) -> bytes:
        with self._receive_guard:
            data: bytes = await self._call(self._sock.recv, False, _DATAGRAM)
        return data

    async def send(self, item: bytes) -> None:
        with self._send_guard:
            await self._call(self._sock.send, True, item)


class ConnectedUDPSocket(_Connected, abc.ConnectedUDPSocket):
    """`anyio.abc.ConnectedUDPSocket`."""


class ConnectedUNIXDatagramSocket(_Connected, abc.ConnectedUNIXDatagramSocket):
    """`anyio.abc.ConnectedUNIXDatagramSocket`."""


async def connect(sock: socket.socket, address: Any) -> None:
    """Connects a socket that was adopted. OSError."""
    _core.checkpoint_if_cancelled()
    in_progress = False

    def attempt() -> None:
        nonlocal in_progress
        if in_progress:
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, f"connect to {address!r} failed")
            try:
                sock.getpeername()
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise
                raise BlockingIOError from None
            return
        try:
            sock.connect(address)
        except BlockingIOError as error:
            if error.errno == errno.EAGAIN and sock.family == socket.AF_UNIX:
                raise OSError(error.errno, "the listener's backlog is full") from None
            in_progress = True
            raise

    await _core.SocketCall(sock, attempt, True)


async def connect_tcp(
    host: str, port: int, local_address: abc.IPSockAddrType | None = None
) -> SocketStream:
    sock = adopt(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local_address:
            sock.bind(local_address)
        await connect(sock, (host, port))
    except BaseException:
        close(sock)
        raise
    return SocketStream(sock)


async def connect_unix(path: str | bytes, kind: int) -> UNIXSocketStream:
    sock = adopt(socket.socket(socket.AF_UNIX, kind))
    try:
        await connect(sock, path)
    except BaseException:
        close(sock)
        raise
    return UNIXSocketStream(sock)


async def create_udp_socket(
    family: socket.AddressFamily,
    local_address: abc.IPSockAddrType | None,
    remote_address: abc.IPSockAddrType | None,
    reuse_port: bool,
) -> UDPSocket | ConnectedUDPSocket:
    sock = adopt(socket.socket(family=family, type=socket.SOCK_DGRAM))
    try:
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if local_address:
            sock.bind(local_address)
        if remote_address:
            await connect(sock, remote_address)
            return ConnectedUDPSocket(sock)
    except BaseException:
        close(sock)
        raise
    return UDPSocket(sock)


async def create_unix_datagram_socket(
    sock: socket.socket, remote_path: str | bytes | None
) -> UNIXDatagramSocket | ConnectedUNIXDatagramSocket:
    adopt(sock)
    if remote_path:
        try:
            await connect(sock, remote_path)
        except BaseException:
            close(sock)
            raise
        return ConnectedUNIXDatagramSocket(sock)
    return UNIXDatagramSocket(sock)


#: What a thread's tasks wait for that is not ours: number, and whether to write.
_local = originals.SystemLocal()


async def wait_for_descriptor(obj: Any, write: bool) -> None:
    """Waits until `obj`, a descriptor or what has one, can be written to or read from."""
    fd = obj if isinstance(obj, int) else obj.fileno()
    if fd < 0:
        raise ClosedResourceError
    try:
        waits: set[tuple[int, bool]] = _local.waits
    except AttributeError:
        waits = _local.waits = set()
    key = (fd, write)
    if key in waits:
        raise anyio.BusyResourceError("writing to" if write else "reading from")
    waits.add(key)
    try:
        await _core.descriptor_wait(fd, write)
    except _core.ClosedResourceError:
        raise ClosedResourceError from None
    finally:
        waits.discard(key)


def notify_closing(obj: Any) -> None:
    """Whoever waits for `obj` is told that it is closed."""
    _core.notify_closing(obj if isinstance(obj, int) else obj.fileno())
