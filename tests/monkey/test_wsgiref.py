"""`wsgiref`: a program that serves by it, one thread a request."""

from __future__ import annotations

import socketserver
import threading
import urllib.request
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from tests.monkey.heartbeat import heartbeat


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


def test_an_application_that_waits() -> None:
    together = threading.Barrier(3)
    answers: list[bytes] = []

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        setup_testing_defaults(environ)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        together.wait(30)
        start("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode(), b" ", body]

    def ask(number: int) -> None:
        request = urllib.request.Request(f"{url}/{number}", data=b"body")
        with urllib.request.urlopen(request, timeout=30) as response:
            answers.append(response.read())

    with (
        heartbeat() as heart,
        wsgiref.simple_server.make_server(
            "127.0.0.1", 0, validator(application), server_class=Server, handler_class=Handler
        ) as server,
    ):
        url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, args=(0.005,))
        serving.start()
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        server.shutdown()
        serving.join()
        assert heart.ticks
    assert sorted(answers) == [b"/0 body", b"/1 body", b"/2 body"]
