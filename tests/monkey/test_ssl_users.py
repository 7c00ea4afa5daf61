"""Who uses TLS: files, event loops, real threads, `requests`, modules that were imported early."""

from __future__ import annotations

import asyncio
import http.server
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import aevent
from aevent import _core
from tests.monkey.threads import later, started
from tests.monkey.tls import (
    BIG,
    authority,
    client_context,
    heartbeat,
    raw_pair,
    server_context,
    tls_pair,
)


def test_files_over_tls() -> None:
    left, right = tls_pair()
    with left, right, left.makefile("rwb") as mine, right.makefile("rwb") as theirs:

        def serve() -> None:
            for line in theirs:
                theirs.write(line.upper())
                theirs.flush()

        thread = started(serve)
        for _ in range(3):
            mine.write(b"a line\n")
            mine.flush()
            assert mine.readline() == b"A LINE\n"
        left.shutdown(socket.SHUT_WR)
        thread.join()
    left, right = tls_pair()
    with left, right, tempfile.TemporaryFile() as file:
        file.write(BIG[: 1 << 18])
        file.flush()
        file.seek(0)
        sender = started(left.sendfile, file)
        received = bytearray()
        while len(received) < 1 << 18:
            received += right.recv(100_000)
        sender.join()
        assert received == BIG[: 1 << 18]


def test_a_servers_certificate_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        listener = server_context().wrap_socket(plain, server_side=True)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.close()

        with listener:
            thread = started(serve)
            found = ssl.get_server_certificate(listener.getsockname())
            thread.join()
        assert found.startswith("-----BEGIN CERTIFICATE-----")


def test_objects_over_memory_never_wait() -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context().wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client.do_handshake()
    server.do_handshake()
    client.write(b"data")
    assert server.read() == b"data"


def test_an_event_loop_in_a_thread_speaks_tls() -> None:
    async def main() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        async with server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context(), server_hostname="localhost"
            )
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    answers: list[bytes] = []
    thread = started(lambda: answers.append(asyncio.run(main())))
    thread.join()
    assert answers == [b"HELLO\n"]


async def test_an_async_task_makes_synchronous_tls_calls() -> None:
    await aevent.per_task()
    with heartbeat() as beats:
        left, right = tls_pair()
        with left, right:
            later(right.sendall, b"data")
            assert left.recv(10) == b"data"
            left.settimeout(0.002)
            with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
                left.recv(10)
            with aevent.move_on_after(0.002) as scope:
                right.recv(10)
            assert scope.cancelled_caught
        assert beats() > 1


def test_a_real_thread_and_native_get_the_original() -> None:
    left, right = tls_pair()
    with left, right:

        def use() -> bytes:
            assert not _core.in_task()
            left.sendall(b"from a real thread")
            return left.recv(100)

        def answer() -> None:
            assert right.recv(100) == b"from a real thread"
            right.sendall(b"to it")

        waiting = started(answer)
        assert aevent.offload(use) == b"to it"
        waiting.join()
        right.sendall(b"native")
        with aevent.native():
            assert left.recv(100) == b"native"
            left.settimeout(0.001)
            with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
                left.recv(1)


def test_the_originals_class_blocks() -> None:
    context = client_context()
    context.sslsocket_class = ssl.SSLSocket._aevent_orig  # type: ignore[attr-defined]
    raw, other = raw_pair()
    turns: list[int] = []
    with other:
        raw.settimeout(0.005)
        started(lambda: turns.append(1))
        with pytest.raises(TimeoutError):
            context.wrap_socket(raw, server_hostname="localhost")
        assert not turns


def test_requests_over_https() -> None:
    import requests

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        authority().cert_pem.tempfile() as trusted,
    ):
        server.socket = server_context().wrap_socket(server.socket, server_side=True)
        serving = started(server.serve_forever, 0.01)
        url = f"https://localhost:{server.server_address[1]}"
        answers: list[str] = []

        def fetch(number: int) -> None:
            with requests.Session() as session:
                for part in "ab":
                    answers.append(
                        session.get(f"{url}/{number}{part}", verify=trusted, timeout=30).text
                    )

        with heartbeat() as beats:
            threads = [started(fetch, number) for number in range(4)]
            for thread in threads:
                thread.join()
            assert beats() > 1
        assert sorted(answers) == sorted(f"/{number}{part}" for number in range(4) for part in "ab")
        server.shutdown()
        serving.join()


def test_it_does_not_matter_who_imported_ssl_before(backend: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import ssl, sys
from ssl import SSLContext, SSLSocket, create_default_context
import requests, urllib3

early = create_default_context()
import aevent
aevent.setup(sys.argv[1])

def main():
    class Mine(SSLContext):
        pass
    for context in (early, create_default_context(), Mine(ssl.PROTOCOL_TLS_CLIENT),
                    urllib3.util.ssl_.create_urllib3_context()):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_COMPRESSION
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert isinstance(context, ssl.SSLContext)
    assert SSLSocket is ssl.SSLSocket
    assert SSLContext is ssl.SSLContext
    assert requests.Session().get_adapter("https://x") is not None

aevent.run(main)
main()
print("fine")
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program), backend], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
