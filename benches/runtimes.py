"""Run one workload under one runtime, in this process: `python runtimes.py RUNTIME WORKLOAD JSON`.

The workloads are ordinary synchronous programs or, where async tasks are measured, one in each
runtime's API; this file alone knows how each is started. It prints the workload's sample as one
line of JSON. Nothing but what it takes to parse the command line is imported before the runtime has
patched the standard library.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from measure import Sample

    Run = Callable[[Callable[[], Any]], object]

AEVENT_BACKENDS = {"aevent": "native", "aevent-asyncio": "asyncio", "aevent-trio": "trio"}
"""The runtimes that are aevent, and the backend each stands for."""

ANYIO_BACKENDS = {"anyio-aevent": "aevent", "anyio-asyncio": "asyncio", "anyio-trio": "trio"}
"""The runtimes that are anyio, and the backend of its that each stands for."""

FAMILIES = {"uvloop": "asyncio"}
"""The runtimes whose programs are those of another; else the name says it, up to a hyphen."""

PYTHON_RUNTIMES = (
    *AEVENT_BACKENDS,
    *("gevent", "threads", "asyncio", "uvloop", "trio"),
    *ANYIO_BACKENDS,
)

MAX_SECONDS = 60
"""After this a benchmark's process ends itself, even when the harness is gone."""


def start(runtime: str) -> Run:
    """Patch this process for `runtime`; return what runs a main function under it.

    The imports are in here because each process must import the one runtime it measures and none
    of the others.
    """
    if runtime == "gevent":
        from gevent import monkey  # type: ignore[import-untyped,import-not-found,unused-ignore]

        monkey.patch_all()
        return lambda main: main()
    if runtime == "threads":
        return lambda main: main()
    if runtime in AEVENT_BACKENDS:
        import aevent

        backend = AEVENT_BACKENDS[runtime]
        aevent.setup(backend)
        return lambda main: aevent.run(main, backend=backend)
    if runtime in ANYIO_BACKENDS:
        import anyio

        if runtime == "anyio-aevent":
            import aevent  # registers the backend

            aevent.setup("native")
        return lambda main: anyio.run(main, backend=ANYIO_BACKENDS[runtime])
    if runtime == "asyncio":
        import asyncio

        return lambda main: asyncio.run(main())
    if runtime == "uvloop":
        import uvloop

        return lambda main: uvloop.run(main())
    if runtime == "trio":
        import trio

        return trio.run
    raise SystemExit(f"there is no runtime {runtime!r}; there are {', '.join(PYTHON_RUNTIMES)}")


def main(runtime: str, workload: str, parameters: str) -> None:
    # The default action of SIGALRM ends the process whatever its loop, or its C code, is doing.
    signal.alarm(MAX_SECONDS)
    run = start(runtime)
    module = importlib.import_module(f"workloads.{workload}")
    # A workload that measures an API of the runtime itself has a main_aevent, a main_gevent, ….
    family = FAMILIES.get(runtime) or runtime.partition("-")[0]
    workload_main = getattr(module, f"main_{family}", None) or module.main
    arguments = json.loads(parameters)

    def report(sample: Sample) -> NoReturn:
        print(json.dumps(sample.per_operation()), flush=True)
        # How a runtime shuts down is not measured, and 100,000 parked threads take long to end.
        os._exit(0)

    # gevent's and the threads' are functions in any case.
    if getattr(module, "IS_ASYNC", False) and family not in ("gevent", "threads"):
        async_main: Callable[..., Awaitable[Sample]] = workload_main

        async def run_async() -> None:
            report(await async_main(**arguments))

        run(run_async)
    else:
        run(lambda: report(workload_main(**arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
