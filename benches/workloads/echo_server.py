"""A TCP echo server with a thread for each connection. It prints its port and serves for ever."""

from __future__ import annotations

import json
import socket
import threading
from typing import NoReturn


def main(*, seconds: float) -> NoReturn:
    """`seconds` is not used: the harness ends the server."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
