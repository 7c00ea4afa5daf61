"""`http.client`, `http.server`, `urllib.request` and `xmlrpc`: programs that use them as usual."""

from __future__ import annotations

import http.client
import http.server
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import urllib.robotparser
import xmlrpc.client
import xmlrpc.server
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aevent
from tests.monkey.heartbeat import heartbeat
from tests.monkey.serving import serving


def at_once(count: int, fn: Callable[[int], object]) -> list[Any]:
    """What `fn(0)`, `fn(1)` … return, each in a thread of its own."""
    answers: list[Any] = [None] * count

    def run(number: int) -> None:
        answers[number] = fn(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Rendezvous(http.server.BaseHTTPRequestHandler):
    """Answers a GET of /together once `together` of them are there."""

    protocol_version = "HTTP/1.1"
    together = threading.Barrier(5)

    def do_GET(self) -> None:
        if self.path == "/together":
            self.together.wait(30)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/here")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        elif self.path == "/never":
            time.sleep(60)
        elif self.path == "/missing":
            self.send_error(404)
            return
        self.answer(self.path.encode())

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


def test_a_server_answers_clients_side_by_side() -> None:
    def fetch(number: int) -> tuple[int, bytes, bytes]:
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/together")
        response = connection.getresponse()
        together = response.read()
        connection.request("POST", "/", body=b"%d to" % number)
        reversed_ = connection.getresponse().read()
        connection.close()
        return response.status, together, reversed_

    with heartbeat() as heart, serving(Server(("127.0.0.1", 0), Rendezvous)) as address:
        answers = at_once(5, fetch)
        assert answers == [(200, b"/together", b"ot %d" % number) for number in range(5)]
        assert heart.ticks


def test_urlopen() -> None:
    def fetch(number: int) -> bytes:
        with urllib.request.urlopen(f"{url}/together", timeout=30) as response:
            assert response.status == 200
            body: bytes = response.read()
        request = urllib.request.Request(url, data=body + b"%d" % number, method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    with heartbeat() as heart, serving(Server(("127.0.0.1", 0), Rendezvous)) as address:
        url = f"http://127.0.0.1:{address[1]}"
        assert at_once(5, fetch) == [b"%drehtegot/" % number for number in range(5)]
        with urllib.request.urlopen(f"{url}/moved", timeout=30) as response:
            assert response.read() == b"/here"
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(f"{url}/missing", timeout=30)
        caught.value.close()
        # A TimeoutError, or an URLError if it is not even connected then.
        with pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen(f"{url}/never", timeout=0.005)
        assert heart.ticks


def test_a_request_is_cancelled() -> None:
    with serving(Server(("127.0.0.1", 0), Rendezvous)) as address:
        with aevent.move_on_after(0.01) as scope:
            urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/never")
        assert scope.cancelled_caught


def test_a_connection_that_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port).request("GET", "/")


def test_files_are_served() -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = bytes(range(256)) * 2000
        Path(folder, "file.bin").write_bytes(content)

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=folder)

            def log_message(self, *_args: object) -> None:
                pass

        with serving(Server(("127.0.0.1", 0), Handler)) as address:
            url = f"http://127.0.0.1:{address[1]}"

            def fetch(_number: int) -> bool:
                with urllib.request.urlopen(f"{url}/file.bin", timeout=30) as response:
                    return bytes(response.read()) == content

            assert all(at_once(4, fetch))
            with urllib.request.urlopen(url, timeout=30) as response:
                assert b"file.bin" in response.read()


def test_xmlrpc() -> None:
    together = threading.Barrier(3)

    class ThreadingServer(http.server.ThreadingHTTPServer, xmlrpc.server.SimpleXMLRPCServer):
        daemon_threads = True

        def __init__(self, address: tuple[str, int]) -> None:
            xmlrpc.server.SimpleXMLRPCServer.__init__(self, address, logRequests=False)

    def add(left: int, right: int) -> int:
        together.wait(30)
        return left + right

    def call(number: int) -> Any:
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{address[1]}") as proxy:
            return proxy.add(number, 10)

    server = ThreadingServer(("127.0.0.1", 0))
    server.register_function(add)
    with heartbeat() as heart, serving(server) as address:
        assert at_once(3, call) == [10, 11, 12]
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{address[1]}") as proxy:
            with pytest.raises(xmlrpc.client.Fault, match="is not supported"):
                proxy.unknown()
        assert heart.ticks


def test_docxmlrpc() -> None:
    class ThreadingServer(http.server.ThreadingHTTPServer, xmlrpc.server.DocXMLRPCServer):
        daemon_threads = True

        def __init__(self, address: tuple[str, int]) -> None:
            xmlrpc.server.DocXMLRPCServer.__init__(self, address, logRequests=False)

    def double(number: int) -> int:
        """Doubles."""
        beaten.wait(30)
        return number * 2

    beaten = threading.Event()
    server = ThreadingServer(("127.0.0.1", 0))
    server.set_server_title("a title")
    server.register_function(double)
    with heartbeat() as heart, serving(server) as (host, port):
        url = f"http://{host}:{port}"
        with urllib.request.urlopen(url, timeout=30) as response:
            page = response.read().decode()
        assert "a title" in page and "Doubles." in page
        heart.after_ticks(beaten.set)
        with xmlrpc.client.ServerProxy(url) as proxy:
            assert proxy.double(4) == 8
        assert beaten.is_set()


def test_robotparser() -> None:
    beaten = threading.Event()

    class Rules(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            beaten.wait(30)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"User-agent: *\nDisallow: /private\nCrawl-delay: 3\n")

        def log_message(self, *_args: object) -> None:
            pass

    with heartbeat() as heart, serving(Server(("127.0.0.1", 0), Rules)) as (host, port):
        url = f"http://{host}:{port}"
        heart.after_ticks(beaten.set)
        parser = urllib.robotparser.RobotFileParser(f"{url}/robots.txt")
        parser.read()
        assert parser.can_fetch("me", f"{url}/public")
        assert not parser.can_fetch("me", f"{url}/private/page")
        assert parser.crawl_delay("me") == 3
        assert beaten.is_set()
