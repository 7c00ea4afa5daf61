"""`anyio.run(main, backend="aevent")`: anyio's own suite says the rest, see `tests/anyio`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import pytest
import sniffio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

import aevent
from aevent.integrations import anyio as integration


def run(fn: Any, *args: Any) -> Any:
    return anyio.run(fn, *args, backend="aevent")


def test_importing_aevent_is_enough_and_imports_no_anyio() -> None:
    program = (
        "import sys, aevent\n"
        "assert not any(name.partition('.')[0] == 'anyio' for name in sys.modules)\n"
        "import anyio\n"
        "assert 'aevent.integrations.anyio.backend' not in sys.modules\n"
        "async def main(): return 'done'\n"
        "print(anyio.run(main, backend='aevent'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_anyio_may_come_first() -> None:
    program = "import anyio, aevent\nasync def main(): pass\nanyio.run(main, backend='aevent')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_setup_patches_first_finds_what_is_imported_later() -> None:
    program = (
        "import aevent\naevent.setup('asyncio')\nimport anyio\n"
        "async def main(): pass\nanyio.run(main, backend='aevent')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_version_of_anyio_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration.importlib.metadata, "version", lambda name: "5.0.1")
    with pytest.raises(aevent.AeventError, match=r"works with anyio 4\.16 .* but anyio 5\.0\.1"):
        integration.check_version()


def test_an_option_that_does_not_exist_is_refused() -> None:
    async def main() -> None:
        raise AssertionError

    with pytest.raises(aevent.AeventError, match="has no option 'debug'"):
        anyio.run(main, backend="aevent", backend_options={"debug": True})


def test_the_library_is_aevent() -> None:
    async def main() -> str:
        return sniffio.current_async_library()

    assert run(main) == "aevent"


def test_tasks_scopes_and_streams() -> None:
    async def produce(send: Any, *, task_status: TaskStatus[str]) -> str:
        async with send:
            task_status.started("ready")
            for number in range(3):
                await send.send(number)
        return "sent"

    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](0)
        async with anyio.create_task_group() as tg, receive:
            handle = await tg.start(produce, send, return_handle=True)
            assert handle.start_value == "ready"
            assert [item async for item in receive] == [0, 1, 2]
            assert await handle == "sent"
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


def test_a_task_group_spawns_synchronous_functions_too() -> None:
    seen: list[Any] = []

    async def asynchronous(value: str) -> None:
        seen.append(value)

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            scope = tg.spawn(seen.append, "synchronous")  # type: ignore[attr-defined]
            tg.spawn(asynchronous, "asynchronous")  # type: ignore[attr-defined]
            assert isinstance(scope, aevent.CancelScope)

    run(main)
    assert sorted(seen) == ["asynchronous", "synchronous"]


def test_aevents_own_functions_work_beside_anyios() -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with aevent.TaskGroup() as tg:
                tg.spawn(anyio.sleep_forever)
                tg.spawn(aevent.sleep_forever)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught

    run(main)


def test_sockets_and_worker_threads() -> None:
    async def echo(stream: SocketStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tg, listener:
            tg.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"x" * 1_000_000)
                await stream.send_eof()
                assert sum([len(data) async for data in stream]) == 1_000_000
            tg.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 0) is None

    run(main)
