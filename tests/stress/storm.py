"""A cancellation storm: tasks in every kind of wait, cancelled in random order, again and again.

    python tests/stress/storm.py --tasks 10000 --rounds 1000 --backend native

After each round it is checked that every task has ended by its cancellation and every `finally`
ran, that nothing which was handed out in the middle of it got lost, and that the loop, the
descriptors and the threads are as they were. Memory is compared over the rounds. The seed is fixed,
so the order of a round is the same in each run.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import os
import random
import resource
import signal
import sys
import time

import aevent

aevent.setup()

from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import waits  # type: ignore[import-not-found]
import world  # type: ignore[import-not-found]

from aevent import _core

#: Real threads that are no leak.
POOL = 32


class Round:
    """One round: `tasks` tasks in the waits of `kinds`."""

    def __init__(self, held: world.Held, kinds: list[Any], tasks: int, seed: str) -> None:
        self.world = world.World(held)
        self.world.rlock.acquire()
        self.choose = random.Random(seed)
        self.plan = self._plan(kinds, tasks)
        self.begun: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.errors: list[BaseException] = []

    def _plan(self, kinds: list[Any], tasks: int) -> list[Any]:
        planned = [fn for fn, most in kinds if most is not None for _ in range(most)][:tasks]
        cheap = [fn for fn, most in kinds if most is None]
        if not cheap:
            planned = [fn for fn, _ in kinds for _ in range(tasks // len(kinds) + 1)]
        while len(planned) < tasks:
            planned += cheap[: tasks - len(planned)]
        self.choose.shuffle(planned)
        return planned[:tasks]

    def _sync(self, fn: Any) -> None:
        name = fn.__name__
        self.begun[name] += 1
        try:
            fn(self.world)
        except BaseException as error:
            self._note(name, error)
            raise
        finally:
            self.ended[name] += 1

    async def _async(self, fn: Any) -> None:
        name = fn.__name__
        self.begun[name] += 1
        try:
            await fn(self.world)
        except BaseException as error:
            self._note(name, error)
            raise
        finally:
            self.ended[name] += 1

    def _note(self, name: str, error: BaseException) -> None:
        # A nursery that was cancelled raises a group of what its tasks have raised.
        if is_cancellation(error):
            self.cancelled[name] += 1
        else:
            self.errors.append(error)

    async def run(self) -> None:
        async with aevent.TaskGroup() as group:
            scopes = []
            for fn in self.plan:
                run = self._async if asyncio.iscoroutinefunction(fn) else self._sync
                scopes.append(group.spawn(run, fn, name=fn.__name__))
            try:
                while self.begun.total() < len(self.plan):
                    await aevent.sleep(0.001)
                for _ in range(3):
                    await aevent.sleep(0)
                self.choose.shuffle(scopes)
                for number, scope in enumerate(scopes):
                    scope.cancel()
                    if number % 97 == 0:
                        await world.poke(self.world, self.choose)
                    if number % 1009 == 0:
                        await aevent.sleep(0)
            finally:
                # Also if somebody has failed: who is shielded waits for it.
                self.world.release.set()
        self.world.rlock.release()
        self.world.rlock.acquire()
        self.world.end()
        self.check()

    def check(self) -> None:
        if self.errors:
            raise self.errors[0]
        planned = Counter(fn.__name__ for fn in self.plan)
        for what in (self.begun, self.ended, self.cancelled):
            assert what == planned, (what - planned, planned - what)


def is_cancellation(error: BaseException) -> bool:
    inner = getattr(error, "exceptions", None)
    if inner is not None:
        return all(map(is_cancellation, inner))
    return type(error).__name__ in ("Cancelled", "CancelledError")


def process_state() -> dict[str, int]:
    """What must be as it was when a round is over."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        # An abandoned call keeps its thread of the pool for as long as it takes.
        "real threads": max(len(os.listdir("/proc/self/task")), POOL),
        **{name: count for name, count in _core.statistics().items() if name != "stacks"},
    }


def memory() -> int:
    """Resident memory, in kB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


async def settled_state() -> dict[str, int]:
    """The state, when what ends a little after its task has had the time to."""
    state = process_state()
    for _ in range(200):
        await aevent.sleep(0.01)
        former, state = state, process_state()
        if state == former:
            break
    return state


async def main(options: argparse.Namespace) -> None:
    kinds = list(waits.WAITS)
    if options.backend != "native":
        kinds += [(fn, None) for fn in waits.HOST_WAITS]
    if options.kinds:
        kinds = [(fn, most) for fn, most in kinds if fn.__name__ in options.kinds]
    held = world.Held()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    baseline: dict[str, int] = {}
    objects = sizes = 0
    began = time.monotonic()
    for number in range(options.first, options.first + options.rounds):
        faulthandler.dump_traceback_later(options.timeout, exit=True)
        start, cpu = time.monotonic(), time.process_time()
        await Round(held, kinds, options.tasks, f"{options.seed}/{number}").run()
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        state = await settled_state()
        done = number - options.first
        if done < 2:
            baseline = {name: max(baseline.get(name, 0), state[name]) for name in state}
        grown = {
            name: state[name] - baseline[name] for name in state if state[name] > baseline[name]
        }
        assert not grown, f"round {number} has left: {grown}"
        # The first rounds fill pools and caches.
        if done % max(options.rounds // 20, 1) == 0 or options.rounds <= 20:
            gc.collect()
            objects, sizes = len(gc.get_objects()), memory()
            print(
                f"round {number}: {seconds:.2f} s ({cpu:.2f} s CPU), {sizes / 1024:.1f} MB,"
                f" {objects} objects, {state}",
                flush=True,
            )
    faulthandler.cancel_dump_traceback_later()
    held.close()
    print(
        f"{options.rounds} rounds of {options.tasks} tasks in {len(kinds)} kinds of wait on"
        f" {options.backend}: {time.monotonic() - began:.0f} s; all were cancelled, and nothing was"
        " left"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="native")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--seed", default="storm")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds after which a round counts as hanging"
    )
    parser.add_argument("--kinds", nargs="*", help="only these waits")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    loop: dict[str, Any] = {}
    name = options.backend
    if name == "uvloop":
        import uvloop

        name, loop = "asyncio", {"loop_factory": uvloop.new_event_loop}
    aevent.run(main, options, backend=name, **loop)
