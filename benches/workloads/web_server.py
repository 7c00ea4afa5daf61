"""`http.server`'s threading server. It prints its port and serves for ever."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"Hello, world!\n" * 8


class Handler(BaseHTTPRequestHandler):
    """Says hello, as often as the connection lasts."""

    # The header and the body are two sends; without this the second would wait for a delayed ACK.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: writing a log is not what is measured."""


class KeepAliveHandler(Handler):
    protocol_version = "HTTP/1.1"


class Server(ThreadingHTTPServer):
    request_queue_size = 1024


def main(*, seconds: float, keep_alive: bool) -> None:
    """`seconds` is not used: the harness ends the server."""
    with Server(("127.0.0.1", 0), KeepAliveHandler if keep_alive else Handler) as server:
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()
