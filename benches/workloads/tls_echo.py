"""TLS on both ends, a thread for each end of each connection: messages, or handshakes.

Both ends are in this process: an operation contains what the client does and what the server does.
"""

from __future__ import annotations

import socket
import ssl
import threading

from measure import Clocks, Sample, for_about


def make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    import trustme  # here: it imports a lot, and none of it before the runtime is there

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Echoes, a thread for each connection, until the listener is closed."""

    def echo(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    while True:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=echo, args=(raw,), daemon=True).start()


def main(*, seconds: float, connections: int, kind: str, size: int = 64) -> Sample:
    """`kind`: `echo` (an operation is one request) or `handshake` (one connection with one)."""
    message = b"x" * size
    server, client = make_contexts()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=serve, args=(listener, server), daemon=True).start()

    def connect() -> ssl.SSLSocket:
        raw = socket.create_connection(listener.getsockname())
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client.wrap_socket(raw, server_hostname="localhost")

    def request(connection: ssl.SSLSocket) -> None:
        connection.sendall(message)
        left = size
        while left:
            left -= len(connection.recv(65536))

    def echo(opened: ssl.SSLSocket, times: int) -> None:
        for _ in range(times):
            request(opened)

    def handshake(times: int) -> None:
        for _ in range(times):
            with connect() as connection:
                request(connection)

    opened = [connect() for _ in range(connections)] if kind == "echo" else []

    def measure(times: int) -> Sample:
        if kind == "echo":
            workers = [threading.Thread(target=echo, args=(each, times)) for each in opened]
        else:
            workers = [
                threading.Thread(target=handshake, args=(times,)) for _ in range(connections)
            ]
        begin = Clocks.read()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return Sample.between(begin, Clocks.read(), times * connections)

    return for_about(seconds, measure, first=2)
