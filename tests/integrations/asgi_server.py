"""A small HTTP server for ASGI applications, on whichever backend of anyio's runs."""

from __future__ import annotations

from typing import Any

import anyio
import h11
from anyio.abc import ByteStream


async def serve(app: Any, stream: ByteStream) -> None:
    """Answers the requests that come on one connection, one after another."""
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while True:
            request = await _next_event(connection, stream)
            if not isinstance(request, h11.Request):
                return
            await _answer(app, connection, stream, request)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()


async def _next_event(connection: h11.Connection, stream: ByteStream) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            connection.receive_data(await stream.receive())
        except anyio.EndOfStream:
            connection.receive_data(b"")
    return event


async def _answer(
    app: Any, connection: h11.Connection, stream: ByteStream, request: h11.Request
) -> None:
    path, _, query = request.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": "http",
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
    }
    is_complete = False

    async def receive() -> dict[str, Any]:
        nonlocal is_complete
        if is_complete:
            # Whoever asks waits for the client to go away.
            await anyio.sleep_forever()
        event = await _next_event(connection, stream)
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        is_complete = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        events: list[Any]
        if message["type"] == "http.response.start":
            events = [h11.Response(status_code=message["status"], headers=message["headers"])]
        else:
            events = [h11.Data(data=message.get("body", b""))]
            if not message.get("more_body"):
                events.append(h11.EndOfMessage())
        for event in events:
            await stream.send(connection.send(event))

    await app(scope, receive, send)
    while connection.their_state is h11.SEND_BODY:
        await _next_event(connection, stream)
