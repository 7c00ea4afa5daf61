"""Tasks of a host that may call synchronous code without having asked for it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import aevent
from aevent import _core
from aevent._backend import HostBackend
from tests.backends.contract import Boom

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

RunHost = Callable[..., Any]


class Rendezvous:
    """Two tasks wait for each other in synchronous code: neither may block the loop."""

    def __init__(self) -> None:
        self.events = [threading.Event(), threading.Event()]
        self.log: list[str] = []

    def meet(self, which: int) -> None:
        assert _core.in_task(), "it has no portal, and would block the loop"
        self.events[which].set()
        self.events[1 - which].wait()
        self.log.append("met")

    async def child(self, which: int) -> None:
        self.meet(which)
        await anyio.sleep(0)
        self.meet(which)


def test_children_of_an_anyio_group_have_portals(run_host: RunHost) -> None:
    two = Rendezvous()

    async def main() -> None:
        async with aevent.runner(), anyio.create_task_group() as group:
            for which in (0, 1):
                handle = group.start_soon(two.child, which, name=f"child {which}")
                assert hasattr(anyio, "TaskHandle") == (handle is not None)

    run_host(main)
    assert two.log == ["met"] * 4


def test_a_child_that_an_anyio_group_starts_has_a_portal(run_host: RunHost) -> None:
    async def child(value: int, *, task_status: Any) -> None:
        assert _core.in_task()
        time.sleep(0.001)
        task_status.started(value)
        time.sleep(0.001)

    async def main() -> None:
        async with aevent.runner(), anyio.create_task_group() as group:
            assert await group.start(child, 7) == 7

    run_host(main)


def test_an_anyio_group_names_its_tasks_as_without_portals(run_host: RunHost) -> None:
    names: list[str | None] = []

    async def child(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        names.append(anyio.get_current_task().name)
        task_status.started()

    async def once() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await group.start(child)
            group.start_soon(child, name="named")

    async def main() -> None:
        await once()
        async with aevent.runner():
            await once()

    run_host(main)
    assert len(names) == 6 and sorted(map(str, names[:3])) == sorted(map(str, names[3:]))


def test_an_anyio_group_spawns_functions_of_both_kinds(run_host: RunHost) -> None:
    two = Rendezvous()

    async def main() -> None:
        async with aevent.runner(), anyio.create_task_group() as group:
            for scope in (
                group.spawn(two.meet, 0),  # type: ignore[attr-defined]
                group.spawn(two.child, 1),  # type: ignore[attr-defined]
            ):
                assert isinstance(scope, aevent.CancelScope)

    run_host(main)
    assert two.log == ["met"] * 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_scope_that_spawn_returns_cancels_that_child(run_host: RunHost, kind: str) -> None:
    log: list[str] = []

    def sync() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sync")

    async def async_() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("async")

    async def main() -> None:
        async with aevent.runner(), anyio.create_task_group() as group:
            scope = group.spawn(sync if kind == "sync" else async_)  # type: ignore[attr-defined]
            for _ in range(20):
                await anyio.sleep(0)
            scope.cancel()
        assert not group.cancel_scope.cancel_called

    run_host(main)
    assert log == [kind]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_error_of_a_spawned_child_is_the_anyio_groups(run_host: RunHost, kind: str) -> None:
    log: list[str] = []

    def sync() -> None:
        time.sleep(0)
        raise Boom

    async def async_() -> None:
        await anyio.sleep(0)
        raise Boom

    def sibling() -> None:
        try:
            time.sleep(3600)
        finally:
            log.append("sibling")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                group.spawn(sibling)  # type: ignore[attr-defined]
                for _ in range(20):
                    await anyio.sleep(0)
                group.spawn(sync if kind == "sync" else async_)  # type: ignore[attr-defined]
        assert [type(error) for error in caught.value.exceptions] == [Boom]

    async def with_runner() -> None:
        async with aevent.runner():
            await main()

    run_host(with_runner)
    assert log == ["sibling"]


def test_a_green_thread_spawns_in_an_anyio_group(run_host: RunHost) -> None:
    log: list[str] = []

    async def async_() -> None:
        await anyio.sleep(0)
        log.append("async")

    async def main() -> None:
        async with aevent.runner(), anyio.create_task_group() as group:

            def green() -> None:
                group.spawn(async_)  # type: ignore[attr-defined]
                group.spawn(log.append, "sync")  # type: ignore[attr-defined]
                time.sleep(0)

            group.spawn(green)  # type: ignore[attr-defined]

    run_host(main)
    assert sorted(log) == ["async", "sync"]


def test_without_a_runner_an_anyio_group_is_as_it_was(run_host: RunHost) -> None:
    async def child() -> None:
        await anyio.sleep(0)
        assert not _core.in_task()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            with pytest.raises(aevent.AeventError, match=r"async with aevent\.runner\(\)"):
                group.spawn(child)  # type: ignore[attr-defined]

    run_host(main)


@pytest.mark.parametrize("inner", ["asyncio", "trio"])
def test_the_groups_of_a_loop_that_a_green_thread_runs_are_as_they_were(
    run_host: RunHost, inner: str
) -> None:
    pytest.importorskip(inner)
    log: list[str] = []

    async def child() -> None:
        await anyio.sleep(0)
        log.append("child")

    async def own() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            with pytest.raises(aevent.AeventError, match="runner"):
                group.spawn(child)  # type: ignore[attr-defined]

    async def main() -> None:
        async with aevent.runner():
            await aevent.per_task()
            thread = threading.Thread(target=lambda: anyio.run(own, backend=inner))
            thread.start()
            thread.join()

    run_host(main)
    assert log == ["child"]


def test_green_children_of_an_anyio_group_know_the_deadline(run_host: RunHost) -> None:
    deadlines: list[float] = []

    async def main() -> None:
        async with aevent.runner():
            with aevent.move_on_after(100):
                async with anyio.create_task_group() as group:
                    group.spawn(  # type: ignore[attr-defined]
                        lambda: deadlines.append(aevent.current_effective_deadline())
                    )

    run_host(main)
    assert deadlines == [pytest.approx(aevent.current_time() + 100, abs=10)]


# --- portals="all" ---


@pytest.fixture
def portals_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(HostBackend, "portals_for_all", True)
    yield


@pytest.mark.usefixtures("portals_for_all")
def test_with_portals_for_all_the_task_that_enters_the_runner_has_one(run_host: RunHost) -> None:
    async def main() -> None:
        async with aevent.runner():
            assert _core.in_task()
            time.sleep(0.001)

    run_host(main)


@pytest.mark.usefixtures("portals_for_all")
def test_with_portals_for_all_tasks_that_were_there_before_have_one(run_host: RunHost) -> None:
    two = Rendezvous()

    async def child(which: int, ready: anyio.Event) -> None:
        await ready.wait()
        await two.child(which)

    async def main() -> None:
        ready = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(child, 0, ready)
            group.start_soon(child, 1, ready)
            await anyio.sleep(0)
            await anyio.sleep(0)
            async with aevent.runner():
                ready.set()
                while len(two.log) < 4:
                    await anyio.sleep(0)

    run_host(main)


@pytest.mark.usefixtures("portals_for_all")
def test_with_portals_for_all_each_task_has_one(run_host: RunHost, host: str) -> None:
    two = Rendezvous()

    async def main() -> None:
        async with aevent.runner():
            if host.endswith("trio"):
                import trio

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(two.child, 0)
                    nursery.start_soon(two.child, 1)
            else:
                await asyncio.gather(two.child(0), asyncio.create_task(two.child(1)))
            async with anyio.create_task_group() as group:
                group.start_soon(two.child, 0)
                group.start_soon(two.child, 1)
        if not host.endswith("trio"):
            assert asyncio.get_running_loop().get_task_factory() is None

    run_host(main)
    assert two.log == ["met"] * 8


@pytest.mark.usefixtures("portals_for_all")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_task_factory_that_is_set_already_is_called(loop: str) -> None:
    made: list[str] = []

    class OwnTask(asyncio.Task):  # type: ignore[type-arg]
        pass

    def own_factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__qualname__.rpartition(".")[2])
        return OwnTask(coroutine, loop=loop, **options)

    async def child() -> None:
        assert type(asyncio.current_task()) is OwnTask
        assert _core.in_task()
        time.sleep(0.001)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(own_factory)
        async with aevent.runner():
            await asyncio.create_task(child(), name="child")
        assert asyncio.get_running_loop().get_task_factory() is own_factory

    if loop == "uvloop":
        pytest.importorskip("uvloop").run(main())
    else:
        asyncio.run(main())
    assert "child" in made


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has eager tasks")
@pytest.mark.parametrize("portals", ["groups", "all"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_eager_tasks_have_portals_from_their_first_step_on(
    loop: str, portals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostBackend, "portals_for_all", portals == "all")
    log: list[str] = []

    async def child(name: str) -> str:
        assert _core.in_task()
        log.append(f"{name} begins")
        time.sleep(0.001)
        assert asyncio.current_task().get_name() == name  # type: ignore[union-attr]
        await asyncio.sleep(0)
        time.sleep(0.001)
        log.append(f"{name} ends")
        return name

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with aevent.runner():
            await aevent.per_task()
            tasks = [asyncio.create_task(child(name), name=name) for name in ("a", "b")]
            log.append("created")
            assert await asyncio.gather(*tasks) == ["a", "b"]
            async with anyio.create_task_group() as group:
                group.start_soon(child, "c", name="c")
                with anyio.move_on_after(5):
                    await anyio.sleep(0)

    if loop == "uvloop":
        if sys.version_info >= (3, 13):
            pytest.skip("uvloop does not call an eager factory as Python 3.13 does")
        pytest.importorskip("uvloop").run(main())
    else:
        asyncio.run(main())
    assert log[:3] == ["a begins", "b begins", "created"]


def test_setup_takes_groups_or_all() -> None:
    with pytest.raises(aevent.AeventError, match="portals is 'groups' or 'all', not 'some'"):
        aevent.setup(portals="some")


# --- per_task() in a task that asyncio's C has made ---


def test_a_task_that_holds_its_coroutine_twice_is_left_alone() -> None:
    class Holder(asyncio.Task):  # type: ignore[type-arg]
        __slots__ = ("also",)

    async def child() -> None:
        task: Any = asyncio.current_task()
        task.also = task.get_coro()
        with pytest.raises(RuntimeError, match="cannot be replaced"):
            await aevent.per_task()
        assert not _core.in_task()
        assert task.get_coro() is task.also

    async def main() -> None:
        async with aevent.runner():
            await Holder(child(), loop=asyncio.get_running_loop())

    asyncio.run(main())


def test_a_task_whose_class_says_something_else_is_not_believed() -> None:
    class Liar(asyncio.Task):  # type: ignore[type-arg]
        __slots__ = ("shown",)

        def get_coro(self) -> Any:
            return getattr(self, "shown", None) or super().get_coro()

    async def shown() -> None:
        pass

    async def child(other: Any) -> None:
        task: Any = asyncio.current_task()
        task.shown = other
        with pytest.raises(RuntimeError, match="cannot be replaced"):
            await aevent.per_task()
        assert task.shown is other

    async def main() -> None:
        other = shown()
        async with aevent.runner():
            await Liar(child(other), loop=asyncio.get_running_loop())
        other.close()

    asyncio.run(main())


def test_a_subclass_of_the_task_with_attributes_of_its_own_gets_a_portal() -> None:
    class Named(asyncio.Task):  # type: ignore[type-arg]
        def __init__(self, coroutine: Any, **options: Any) -> None:
            super().__init__(coroutine, **options)
            self.label = "own"

    async def child() -> str:
        await aevent.per_task()
        assert _core.in_task()
        time.sleep(0.001)
        task: Any = asyncio.current_task()
        label: str = task.label
        return label

    async def main() -> None:
        async with aevent.runner():
            for _ in range(100):
                assert await Named(child(), loop=asyncio.get_running_loop()) == "own"

    asyncio.run(main())
