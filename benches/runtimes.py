"""Run one workload under one runtime, in this process: `python runtimes.py RUNTIME WORKLOAD JSON`.

The workloads are ordinary synchronous programs; this file alone knows how each runtime is started.
It prints the workload's sample as one line of JSON. Nothing but what it takes to parse the command
line is imported before the runtime has patched the standard library.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from measure import Sample

    Main = Callable[[], object]

AEVENT_BACKENDS = {"aevent": "native", "aevent-asyncio": "asyncio", "aevent-trio": "trio"}
"""The runtimes that are aevent, and the backend each stands for."""

PYTHON_RUNTIMES = (*AEVENT_BACKENDS, "gevent", "threads")

MAX_SECONDS = 60
"""After this a benchmark's process ends itself, even when the harness is gone."""


def start(runtime: str) -> Callable[[Main], None]:
    """Patch this process for `runtime`; return what runs a main function under it.

    The imports are in here because each process must import the one runtime it measures and none
    of the others.
    """
    if runtime == "gevent":
        from gevent import monkey  # type: ignore[import-untyped,import-not-found,unused-ignore]

        monkey.patch_all()
    elif runtime in AEVENT_BACKENDS:
        import aevent

        backend = AEVENT_BACKENDS[runtime]
        aevent.setup(backend)
        return lambda main: aevent.run(main, backend=backend)
    elif runtime != "threads":
        raise SystemExit(f"there is no runtime {runtime!r}; there are {', '.join(PYTHON_RUNTIMES)}")

    def run(main: Main) -> None:
        main()

    return run


def main(runtime: str, workload: str, parameters: str) -> None:
    # The default action of SIGALRM ends the process whatever its loop, or its C code, is doing.
    signal.alarm(MAX_SECONDS)
    run = start(runtime)
    module = importlib.import_module(f"workloads.{workload}")
    # A workload that measures an API of the runtime itself has a main_aevent or a main_gevent.
    family = runtime.partition("-")[0]
    workload_main = getattr(module, f"main_{family}", None) or module.main
    arguments = json.loads(parameters)

    def report(sample: Sample) -> NoReturn:
        print(json.dumps(sample.per_operation()), flush=True)
        # How a runtime shuts down is not measured, and 100,000 parked threads take long to end.
        os._exit(0)

    if getattr(module, "IS_ASYNC", False) and runtime in AEVENT_BACKENDS:

        async def run_async() -> None:
            report(await workload_main(**arguments))

        run(run_async)
    else:
        run(lambda: report(workload_main(**arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
