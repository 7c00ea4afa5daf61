"""print_tree: what every task is doing."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aevent
from aevent.lowlevel import ScopeNode, TaskNode, task_tree
from tests.backends.contract import Run, Settle


def walk(nodes: list[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        if isinstance(node, ScopeNode):
            yield from walk(node.inside)
        elif node.scope is not None:
            yield from walk(node.scope.inside)


def tasks() -> dict[str, TaskNode]:
    found = [node for loop in task_tree() for node in walk(loop.inside)]
    return {node.name.rpartition(".")[2]: node for node in found if isinstance(node, TaskNode)}


def functions(node: TaskNode) -> list[str]:
    return [summary.name for summary in node.stack]


class Program:
    """Tasks of every kind, each parked in some function of its own."""

    def __init__(self) -> None:
        self.go = aevent.Event()

    def wait_in_thread(self) -> None:
        self.go.wait()

    def green(self) -> None:
        self.wait_in_thread()

    async def wait(self) -> None:
        await self.go.async_wait()

    async def coroutine(self) -> None:
        with aevent.move_on_after(1000):
            await self.wait()

    async def calls_sync(self) -> None:
        self.wait_in_thread()

    async def nested(self) -> None:
        async with aevent.TaskGroup() as tg:
            tg.spawn(self.coroutine, name="inner")

    async def run(self, settle: Settle, look: Callable[[], Any]) -> None:
        async with aevent.TaskGroup() as tg:
            for fn in (self.green, self.coroutine, self.calls_sync, self.nested):
                tg.spawn(fn)
                await settle()
            await look()
            self.go.set()


def check(found: dict[str, TaskNode], backend: str) -> None:
    assert functions(found["green"])[-2:] == ["green", "wait_in_thread"]
    assert (found["green"].kind, found["green"].state) == ("green", "parked")
    assert functions(found["calls_sync"])[-2:] == ["calls_sync", "wait_in_thread"]
    names = functions(found["coroutine"])
    assert names[names.index("coroutine") + 1] == "wait"
    assert "nested" in functions(found["nested"]) and "inner" in found
    if backend == "native":
        assert found["coroutine"].awaits == "Wait"
        scope = found["coroutine"].scope
        assert scope is not None
        deadlines = [node.deadline for node in walk(scope.inside) if isinstance(node, ScopeNode)]
        assert abs(deadlines[0] - aevent.current_time() - 1000) < 10
        assert found["inner"] in walk([found["nested"]])
    if backend == "trio":
        assert found["inner"] in walk([found["nested"]])


def test_every_task_is_shown_where_it_waits(run: Run, backend: str, settle: Settle) -> None:
    async def look() -> None:
        check(tasks(), backend)
        me = next(node for node in tasks().values() if node.state == "running")
        assert functions(me)[-1] == "tasks"

    run(Program().run, settle, look)
    assert not tasks()


def test_the_main_task_has_the_name_of_its_function_and_no_frame_of_ours(
    backend: str, run: Run, settle: Settle
) -> None:
    async def main() -> None:
        text = await aevent.to_thread.run_sync(aevent.format_tree)
        (line,) = (each for each in text.splitlines() if f"{main.__qualname__} (" in each)
        assert line.lstrip().startswith(f"task {__name__}."), line
        first = tasks()["main"].stack[0]
        assert (first.filename, first.name) == (__file__, "main")

    run(main)


def test_a_green_thread_that_waits_alone_is_shown_where_it_is(run: Run) -> None:
    def main() -> dict[str, TaskNode]:
        return aevent.offload(tasks)

    def of_coroutine() -> None:
        found.update(aevent.offload(tasks))

    async def async_main() -> None:
        of_coroutine()

    assert "main" in functions(run(main)["main"])
    found: dict[str, TaskNode] = {}
    run(async_main)
    assert "of_coroutine" in functions(found["async_main"])


def test_another_thread_may_look(run: Run, backend: str, settle: Settle) -> None:
    async def look() -> None:
        check(await aevent.to_thread.run_sync(tasks), backend)

    run(Program().run, settle, look)


def test_a_signal_handler_may_look(run: Run, settle: Settle) -> None:
    texts: list[str] = []

    async def look() -> None:
        signal.raise_signal(signal.SIGUSR1)
        await aevent.checkpoint()
        assert "wait_in_thread" in texts[0]

    former = signal.signal(signal.SIGUSR1, lambda *_: texts.append(aevent.format_tree()))
    try:
        run(Program().run, settle, look)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_the_text_names_tasks_scopes_and_calls() -> None:
    file = io.StringIO()

    async def main() -> None:
        async with aevent.TaskGroup() as tg:
            tg.spawn(shielded, name="the shielded one")
            await aevent.checkpoint()
            tg.cancel_scope.cancel()
            aevent.print_tree(file)

    async def shielded() -> None:
        with aevent.move_on_after(0.001, shield=True):
            await aevent.sleep_forever()

    aevent.run(main, backend="native")
    text = file.getvalue()
    assert text.startswith("native loop in MainThread:\n")
    assert "task the shielded one (coroutine, ready, cancelled from outside)" in text
    assert "s, shielded\n" in text and "await aevent.sleep_forever()" in text
    assert "awaits Sleep" in text


def test_green_threads_are_shown_by_their_names() -> None:
    go = threading.Event()

    def main() -> None:
        thread = threading.Thread(target=go.wait, name="a thread")
        thread.start()
        aevent._core.checkpoint()
        assert tasks()["a thread"].kind == "green"
        go.set()
        thread.join()

    aevent.run(main, backend="native")


def test_without_a_loop_there_are_no_tasks() -> None:
    assert task_tree() == []
    assert aevent.format_tree() == "no tasks\n"


@pytest.mark.parametrize("kind", ["native", "trio"])
def test_loops_of_several_threads_are_shown(run_on: Callable[[str], Run], kind: str) -> None:
    run = run_on(kind)

    async def main() -> None:
        async def elsewhere(parked: Any) -> None:
            token = aevent.lowlevel.current_token()
            parked.append(token)
            await aevent.sleep_forever()

        parked: list[Any] = []
        scopes: list[aevent.CancelScope] = []

        def real() -> None:
            async def program() -> None:
                with aevent.CancelScope() as scope:
                    scopes.append(scope)
                    await elsewhere(parked)

            aevent.run(program, backend="native")

        async with aevent.TaskGroup() as tg:
            tg.spawn(aevent.to_thread.run_sync, real)
            while not parked or "program" not in tasks():
                await aevent.sleep(0.001)  # there is nothing to wait for but the thread
            assert len({loop.thread for loop in task_tree()}) == 2
            parked[0].run_sync_soon(scopes[0].cancel)

    run(main)
