"""starlette's TestClient, which runs an application in a loop of its own in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("starlette")

PROGRAM = """
import contextlib, sys, warnings
import aevent
aevent.setup(sys.argv[1])
import anyio, sniffio, threading, time
warnings.simplefilter("ignore")  # that of starlette, about the next version of httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient

async def name(request):
    await anyio.sleep(0.001)
    return PlainTextResponse(sniffio.current_async_library())

def in_worker_thread(request):
    time.sleep(0.001)
    return PlainTextResponse("from a thread")

async def parts(request):
    async def generate():
        for number in range(3):
            await anyio.sleep(0.001)
            yield f"{number};"
    return StreamingResponse(generate())

async def fails(request):
    raise ZeroDivisionError

async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text * 2)

log = []

@contextlib.asynccontextmanager
async def lifespan(app):
    log.append("up")
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield
        group.cancel_scope.cancel()
    log.append("down")

app = Starlette(
    routes=[
        Route("/name", name),
        Route("/thread", in_worker_thread),
        Route("/parts", parts),
        Route("/fails", fails),
        WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)

def use(backend):
    with TestClient(app, backend=backend) as client:
        assert client.get("/name").text == backend
        assert client.get("/thread").text == "from a thread"
        assert client.get("/parts").text == "0;1;2;"
        try:
            client.get("/fails")
        except ZeroDivisionError:
            log.append("failed")
        with client.websocket_connect("/echo") as websocket:
            websocket.send_text("a")
            assert websocket.receive_text() == "aa"
    # Without the application's life around it there is a loop for each request.
    assert TestClient(app, backend=backend).get("/name").text == backend
    assert log == ["up", "failed", "down"], log
    log.clear()
"""


@pytest.mark.parametrize("where", ["sync", "async", "thread"])
def test_a_test_client_works_in_a_program_of_any_backend(
    where: str, fresh_ok: Callable[..., str], backend: str
) -> None:
    assert (
        fresh_ok(
            PROGRAM
            + """
where = sys.argv[2]
# trio refuses that in a task of its own, with or without us.
backends = ["asyncio", "aevent"] + ["trio"] * (where != "async" or sys.argv[1] != "trio")

def main():
    for backend in backends:
        use(backend)

async def async_main():
    main()

def main_in_thread():
    beats = 0
    thread = threading.Thread(target=main)
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        beats += 1
    assert beats > 3

aevent.run({"sync": main, "async": async_main, "thread": main_in_thread}[where])
print("ok")
""",
            backend,
            where,
        )
        == "ok\n"
    )
