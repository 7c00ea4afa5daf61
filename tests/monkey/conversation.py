"""Servers that are scripts: what a client says is looked up, and the answer sent."""

from __future__ import annotations

import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import trustme

from tests.monkey.heartbeat import heartbeat


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and a client's that trusts it."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


class Conversation(socketserver.BaseRequestHandler):
    """One client. Subclasses have a method for each command."""

    greeting = b""
    implicit_tls = False

    def handle(self) -> None:
        if self.implicit_tls:
            self.upgrade()
        self.file = self.request.makefile("rb")
        self.say(self.greeting)
        while line := self.file.readline():
            if not self.answer(line.rstrip(b"\r\n").decode()):
                break
        self.file.close()
        self.request.close()

    def say(self, *lines: bytes) -> None:
        self.request.sendall(b"".join(line + b"\r\n" for line in lines))

    def upgrade(self) -> None:
        self.request = contexts()[0].wrap_socket(self.request, server_side=True)

    def start_tls(self) -> None:
        self.file.close()
        self.upgrade()
        self.file = self.request.makefile("rb")

    def answer(self, line: str) -> bool:
        """Says something; whether the conversation goes on."""
        raise NotImplementedError


@contextmanager
def serving(handler: type[Conversation]) -> Iterator[int]:
    """The port on which it is served; meanwhile, others must go on."""

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    contexts()  # before several threads want them at once
    with Server(("127.0.0.1", 0), handler) as server, heartbeat() as heart:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
        assert heart.ticks
