"""httpx's async client and starlette on aevent's native loop, by way of anyio."""

from __future__ import annotations

import functools
import importlib.util
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import aevent  # noqa: F401 - registers the backend

_spec = importlib.util.spec_from_file_location(
    "asgi_server", Path(__file__).with_name("asgi_server.py")
)
assert _spec is not None and _spec.loader is not None
asgi_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(asgi_server)


async def echo(request: Request) -> Response:
    return JSONResponse({"method": request.method, "body": (await request.body()).decode()})


def in_a_thread(request: Request) -> Response:
    time.sleep(0)
    return PlainTextResponse("from a worker thread")


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            await anyio.sleep(0)
            yield b"%d" % number

    return StreamingResponse(parts())


async def in_the_background(request: Request) -> Response:
    async def later() -> None:
        request.app.state.background.set()

    return PlainTextResponse("foreground", background=BackgroundTask(later))


def application() -> Starlette:
    app = Starlette(
        routes=[
            Route("/echo", echo, methods=["GET", "POST"]),
            Route("/thread", in_a_thread),
            Route("/stream", stream),
            Route("/background", in_the_background),
        ]
    )
    app.state.background = anyio.Event()
    return app


@asynccontextmanager
async def served(app: Starlette, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves an application on the running loop; its address."""
    tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = tcp.extra(SocketAttribute.local_port)
    listener: Any = tcp if context is None else TLSListener(tcp, context)
    async with anyio.create_task_group() as tg, listener:
        tg.start_soon(listener.serve, functools.partial(asgi_server.serve, app))
        yield f"{'http' if context is None else 'https'}://localhost:{port}"
        tg.cancel_scope.cancel()


def run(fn: Callable[..., Any], *args: Any) -> Any:
    return anyio.run(fn, *args, backend="aevent")


def test_a_client_and_a_server_on_one_native_loop() -> None:
    app = application()

    async def main() -> None:
        async with served(app) as url, httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/echo", content=b"hello")
            assert answer.json() == {"method": "POST", "body": "hello"}
            assert (await client.get("/thread")).text == "from a worker thread"
            async with client.stream("GET", "/stream") as streamed:
                assert b"".join([part async for part in streamed.aiter_bytes()]) == b"012"
            assert (await client.get("/background")).text == "foreground"
            await app.state.background.wait()

    run(main)


def test_many_requests_at_once_share_a_pool() -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=5)
        async with served(application()) as url:
            async with httpx.AsyncClient(base_url=url, limits=limits) as client:
                answers: list[str] = []

                async def get(number: int) -> None:
                    answer = await client.post("/echo", content=str(number).encode())
                    answers.append(answer.json()["body"])

                async with anyio.create_task_group() as tg:
                    for number in range(30):
                        tg.start_soon(get, number)
                assert sorted(map(int, answers)) == list(range(30))

    run(main)


def test_tls() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    async def main() -> None:
        async with served(application(), server) as url:
            async with httpx.AsyncClient(base_url=url, verify=client_context) as client:
                assert (await client.get("/echo")).json()["method"] == "GET"

    run(main)


def test_a_timeout_of_the_clients() -> None:
    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        # The connection may take its time: a busy machine must not make it a ConnectTimeout.
        timeout = httpx.Timeout(60, read=0.01)
        async with listener, httpx.AsyncClient(timeout=timeout) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"http://127.0.0.1:{port}/")

    run(main)


def test_an_application_called_without_a_server() -> None:
    async def main() -> str:
        transport = httpx.ASGITransport(application())
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            text: str = (await client.get("/thread")).text
            return text

    assert run(main) == "from a worker thread"
