"""Patching the standard library."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from . import _run, _signals, _watchdog, integrations
from ._backend import HostBackend, check_name, load
from ._exceptions import AeventError, AeventWarning
from ._monkey import hosts, originals, patcher, threading
from ._monkey import rebind as early
from ._monkey.threading import REAL_THREADS

#: What can be patched, in the order in which it is.
MODULES = (
    "time",
    "_thread",
    "sys",
    "threading",
    "queue",
    "socket",
    "select",
    "selectors",
    "os",
    "io",
    "fcntl",
    "subprocess",
    "ssl",
    "signal",
    "atexit",
    "importlib",
    "concurrent.futures",
    "multiprocessing",
)


def setup(
    backend: str | None = None,
    *,
    exclude: Iterable[str] = (),
    rebind: bool = True,
    real_threads: Iterable[str] = (),
    preempt: bool | None = None,
    portals: str | None = None,
    warn_blocking: float | None = None,
) -> None:
    """Patches the standard library and chooses the backend that `run` uses by default.

    `backend` is "native", "asyncio" or "trio"; default `AEVENT_BACKEND`, else native. `exclude`
    names modules of the standard library to leave alone, drivers that are told how to wait in tasks
    when they are imported ("psycopg", "psycopg2"), and "anyio", whose task groups are given
    portals and `spawn`. Call it before other imports.

    What was imported earlier is searched for names that stand for what is patched now, and for
    locks that serve OS threads only; both are replaced, wherever they are held. `rebind=False`
    leaves them. What cannot be replaced is named by an `AeventWarning`; `doctor()` tells it all.

    `real_threads` names packages whose own threads are to stay real, since they wait in C. gRPC's
    do without being named.

    A green thread of the main OS thread that computes for about 10 ms of CPU time, without a call
    that might wait, lets others run between two instructions, as a real thread does. A coroutine
    never does, nor what runs under `native()`, nor a call into C. That takes a real-time signal
    that nobody uses; `preempt=False` does without.

    In programs of asyncio's and trio's, tasks may call synchronous code that waits if they have a
    portal: those that a task group of aevent's or anyio's has started, and others after
    `per_task()`. With `portals="all"`, all of them do while a runner is entered; "groups" is the
    default.

    With `warn_blocking`, what holds up a loop for longer than that many seconds is logged, with the
    task and its stack, as a warning of the logger "aevent.blocking"; see also `on_blocking`.
    Default `AEVENT_WARN_BLOCKING`; 0 is never.

    Calling it again with the same backend or none is fine; with another it is an error, since
    patched code is the same for all backends and `run(…, backend=…)` chooses one for a single call.
    `exclude` and `rebind` come too late then and have no effect.

    Raises `AeventError` for an argument that it does not know and for a backend that is not
    installed, before anything is patched. Call it in the main OS thread.
    """
    name = check_name(backend or _run.default_backend())
    excluded = [exclude] if isinstance(exclude, str) else list(exclude)
    known = (*MODULES, *integrations.MODULES, "anyio")
    unknown = [module for module in excluded if module not in known]
    if unknown:
        raise AeventError(
            f"exclude names {unknown[0]!r}, which aevent does not patch: choose from "
            f"{', '.join(known)}"
        )
    if portals not in (None, "groups", "all"):
        raise AeventError(f"portals is 'groups' or 'all', not {portals!r}")
    threshold = _watchdog.threshold_from(warn_blocking)
    REAL_THREADS.update([real_threads] if isinstance(real_threads, str) else real_threads)
    if _run.chosen_backend is not None:
        if _run.chosen_backend != name and not _run.backend_is_given:
            raise AeventError(
                f"aevent was set up for {_run.chosen_backend!r} already and cannot be set up for "
                f"{name!r}. Patched code is the same for all backends: keep one setup() and use "
                f"aevent.run(…, backend={name!r}) where you want another."
            )
        hosts.keep_originals()
        if portals is not None:
            HostBackend.portals_for_all = portals == "all"
        if preempt is not None:
            _set_preemption(preempt)
        if warn_blocking is not None:
            _watchdog.set_threshold(threshold)
        return
    # Before anything is patched: a missing host must not leave a half-patched process.
    try:
        load(name)
    except ModuleNotFoundError as error:
        raise AeventError(
            f"the backend {name!r} needs the package {error.name!r}, which is not installed: "
            f"pip install aevent[{name}]"
        ) from error
    _run.chosen_backend = name
    _run.before_run = hosts.keep_originals
    for module in MODULES:
        if module == "ssl" and importlib.util.find_spec("_ssl") is None:
            continue  # a Python without OpenSSL
        if module not in excluded:
            importlib.import_module(f"._monkey.{module.replace('.', '_')}", __package__).patch()
    hosts.keep_originals()
    os.register_at_fork(
        before=threading.before_fork,
        after_in_parent=threading.after_fork_in_parent,
        after_in_child=threading.after_fork_in_child,
    )
    integrations.install(excluded)
    HostBackend.portals_for_all = portals == "all"
    _set_preemption(preempt is not False and "signal" not in excluded)
    _watchdog.set_threshold(threshold)
    if rebind:
        for finding in early.rebind(hosts.belongs):
            # At the end: if warnings are errors, everything is patched nevertheless.
            warnings.warn(
                f"aevent.setup() came too late for {finding}. Call it first, before other imports.",
                AeventWarning,
                stacklevel=2,
            )


def _set_preemption(on: bool) -> None:
    if on == _signals.is_preempting() or not _signals.in_main_os_thread():
        return
    if on:
        _signals.begin_preemption()
        # The interpreter gives up its signal handlers when it ends.
        originals.saved["atexit"]["register"](_signals.end_preemption)
    else:
        originals.saved["atexit"]["unregister"](_signals.end_preemption)
        _signals.end_preemption()


def patch_(new: Callable[..., Any], *, name: str, orig: Callable[..., Any]) -> Any:
    """A function that calls `new` in a task and `orig` elsewhere.

    `name` is its dotted name. It has `_aevent_orig`, `_aevent_new` and `_aevent_select()`, like
    every patched function, and is not put anywhere.
    """
    for what, value in (("new", new), ("orig", orig)):
        if not callable(value):
            raise TypeError(f"patch_() expects a callable as {what!r}, not {value!r}")
    if not isinstance(name, str):
        raise TypeError(f"patch_() expects a dotted name, not {name!r}")
    module, _, short = name.rpartition(".")
    return patcher.make_pair(orig, new, name=short, qualname=short, module=module or new.__module__)
