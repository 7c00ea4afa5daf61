"""What every task is doing: names, scopes, and the stack of what each waits in."""

from __future__ import annotations

import math
import sys
import threading
import traceback
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TextIO

from . import _core
from ._backend import HostBackend, HostTask, attached
from ._monkey import originals
from ._tasks import task_name


@dataclass
class ScopeNode:
    """An open cancel scope, and what is inside: further scopes, and tasks started in it."""

    #: In seconds of `current_time()`, infinite without one.
    deadline: float = math.inf
    shield: bool = False
    #: Whether it was cancelled itself; whether what is inside is, by this scope or one around it.
    cancel_called: bool = False
    is_cancelled: bool = False
    inside: list[ScopeNode | TaskNode] = field(default_factory=list)


@dataclass
class TaskNode:
    """A task that has not ended."""

    name: str
    #: "green" for a green thread, "coroutine" for an async task, "host" for one that a host runs.
    kind: str
    #: "running", "ready", "parked", or "" where it is not known.
    state: str
    #: Where it is, the innermost call last.
    stack: list[traceback.FrameSummary]
    #: What it awaits in the end, if that is no coroutine.
    awaits: str | None
    #: The scope that it was started with; `None` for a host's.
    scope: ScopeNode | None = None


@dataclass
class LoopNode:
    """A loop, or a part of it that belongs to one runner or one group of a host's."""

    thread: str
    backend: str
    inside: list[ScopeNode | TaskNode]


def task_tree() -> list[LoopNode]:
    """The tasks of all loops of the process, as data.

    Native tasks and green threads of every loop, and the tasks of asyncio and trio where they drive
    one; asyncio does not tell whose child a task is. May be called from anywhere, from another OS
    thread and from a signal handler, too; what runs meanwhile may be shown as it was a moment
    before.
    """
    hosts = {host.thread: host for host in attached.copy()}
    loops = []
    for thread, entries in _core.forest():
        inside = _nodes(thread, entries)
        if inside:
            host = hosts.get(thread)
            loops.append(LoopNode(_thread_name(thread), host.name if host else "native", inside))
    for host in hosts.values():
        loops.append(LoopNode(_thread_name(host.thread), host.name, _host_nodes(host)))
    return loops


def format_tree() -> str:
    """What every task of every loop is doing, as text for people.

    `aevent.lowlevel.task_tree()` gives the same as data. Thread-safe; may be called in a signal
    handler, too.
    """
    lines: list[str] = []
    for loop in task_tree():
        lines.append(f"{loop.backend} loop in {loop.thread}:")
        for node in loop.inside:
            _format(node, "  ", lines)
    return "\n".join(lines or ["no tasks"]) + "\n"


def print_tree(file: TextIO | None = None) -> None:
    """Writes what every task of every loop is doing to `file`, or to stderr.

    As `format_tree`: from anywhere, another OS thread and a signal handler included.
    """
    # At once: `file` may belong to a test that hangs.
    (sys.stderr if file is None else file).write(format_tree())


# --- making the nodes ---


def _thread_name(ident: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return f"OS thread {ident}"


def _nodes(thread: int, entries: list[Any]) -> list[ScopeNode | TaskNode]:
    """The content of a root from the list that describes the scopes in it, outermost first."""
    scopes: list[ScopeNode] = []
    owners: list[_core.Task | None] = []
    for around, task, deadline, shield, cancel_called, is_cancelled in entries:
        scope = ScopeNode(deadline, shield, cancel_called, is_cancelled)
        scopes.append(scope)
        owners.append(task)
        if around is None:
            continue
        if task is None or task == owners[around]:
            scopes[around].inside.append(scope)
        else:
            scopes[around].inside.append(_task_node(thread, task, scope))
    return scopes[0].inside if scopes else []


def _task_node(thread: int, task: _core.Task, scope: ScopeNode) -> TaskNode:
    state: str = task.state
    frame = _core.suspended_frame(task)
    stack, awaits = [], None
    if frame is not None:
        stack = _frames(frame)
    elif state == "running" or _waits_in_place(task, state):
        stack = _running_frames(thread)
    elif task.coro is not None:
        stack, awaits = _awaited(task.coro)
    return TaskNode(task_name(task), task.kind, state, stack, awaits, scope)


def _waits_in_place(task: _core.Task, state: str) -> bool:
    """Whether the loop waits for events on this task's own stack: nobody else is ready."""
    in_sync_code = task.kind == "green" or getattr(task.coro, "cr_running", False)
    return state == "parked" and in_sync_code


def _host_nodes(host: HostBackend) -> list[ScopeNode | TaskNode]:
    """The host's tasks, each inside its parent where the host knows."""
    nodes: dict[int, TaskNode] = {}
    tops: list[ScopeNode | TaskNode] = []
    for task in host.all_tasks():
        node = nodes[id(task.host_task)] = _host_node(host.thread, task)
        parent = None if task.parent is None else nodes.get(id(task.parent.host_task))
        if parent is None:
            tops.append(node)
        else:
            if parent.scope is None:
                parent.scope = ScopeNode()
            parent.scope.inside.append(node)
    return tops


def _host_node(thread: int, task: HostTask) -> TaskNode:
    coro = task.coro
    inner = coro
    is_parked = False
    while isinstance(inner, _core.Portal) or hasattr(inner, "cr_await"):
        if isinstance(inner, _core.Portal):
            is_parked = _core.suspended_frame(_core.task_of_portal(inner)) is not None
        inner = inner.coroutine if isinstance(inner, _core.Portal) else inner.cr_await
    if not is_parked and getattr(coro, "cr_running", False):
        return TaskNode(task.name, "host", "running", _running_frames(thread), None)
    stack, awaits = _awaited(coro)
    return TaskNode(task.name, "host", "parked" if is_parked else "", stack, awaits)


def _frames(frame: FrameType | None) -> list[traceback.FrameSummary]:
    """The frames from a greenlet's outermost to `frame`."""
    return _summary(_reversed(frame))


def _summary(walked: list[tuple[FrameType, int]]) -> list[traceback.FrameSummary]:
    """The frames for people: without ours around what the program has given to us."""
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in walked]
    theirs = 0
    while theirs < len(walked) and packages[theirs] == "aevent":
        theirs += 1
    # A task may be ours altogether.
    if theirs == len(walked) or packages[theirs] in ("anyio", "asyncio", "trio"):
        theirs = 0
    return list(traceback.StackSummary.extract(walked[theirs:], lookup_lines=True))


def _reversed(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    walked = []
    while frame is not None:
        walked.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    return walked[::-1]


def _running_frames(thread: int) -> list[traceback.FrameSummary]:
    """Where the OS thread is. What it runs is above the loop's own frames."""
    frame: FrameType | None = sys._current_frames().get(thread)
    if thread == originals.get_ident():
        # We are in there ourselves: that is not what was asked for.
        while frame is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
    return _frames(frame)


def _awaited(coro: Any) -> tuple[list[traceback.FrameSummary], str | None]:
    """Where a coroutine waits, and in what."""
    frames: list[tuple[FrameType, int]] = []
    while coro is not None:
        if isinstance(coro, _core.Portal):
            parked = _core.suspended_frame(_core.task_of_portal(coro))
            if parked is not None:
                frames += _reversed(parked)
                coro = None
                break
            coro = coro.coroutine
        frame = None
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(coro, f"{prefix}_frame", None)
            if frame is not None:
                break
        if frame is None:
            break
        frames.append((frame, frame.f_lineno or 0))
        coro = getattr(coro, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await", None)
    return _summary(frames), None if coro is None else type(coro).__qualname__


# --- as text ---


def _describe_scope(scope: ScopeNode) -> str:
    words = []
    if scope.deadline != math.inf:
        words.append(f"deadline in {scope.deadline - _core.current_time():.3g} s")
    if scope.shield:
        words.append("shielded")
    if scope.cancel_called:
        words.append("cancelled")
    elif scope.is_cancelled:
        words.append("cancelled from outside")
    return ", ".join(words)


def _format(node: ScopeNode | TaskNode, indent: str, lines: list[str]) -> None:
    if isinstance(node, ScopeNode):
        words = _describe_scope(node)
        lines.append(f"{indent}scope{': ' if words else ''}{words}")
    else:
        words = "" if node.scope is None else _describe_scope(node.scope)
        state = ", ".join(word for word in (node.kind, node.state, words) if word)
        lines.append(f"{indent}task {node.name} ({state})")
        for summary in node.stack:
            lines.append(f"{indent}    {summary.filename}:{summary.lineno} in {summary.name}")
            if summary.line:
                lines.append(f"{indent}        {summary.line}")
        if node.awaits is not None:
            lines.append(f"{indent}    awaits {node.awaits}")
    inside = node.inside if isinstance(node, ScopeNode) else node.scope.inside if node.scope else []
    for inner in inside:
        _format(inner, indent + "  ", lines)
