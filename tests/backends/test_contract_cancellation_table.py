"""The semantics of cancellation as a table: on every backend the same, and the same as trio's.

Each row is a program: scopes around a wait, and what is done to them while it waits, or before. It
runs as an async function, as synchronous code that a coroutine calls, and as a green thread;
waiting in every kind of place; and what is done is done by the waiting task itself, by another
task, or by a green thread. The rows are what trio's documentation says, and trio itself is asked
whether they are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import aevent
from tests.backends.cancellation_apis import AsyncApi, Place, SyncApi, ThreadApi, TrioApi
from tests.backends.contract import Boom, Run, Settle

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


#: The rules, and in brackets where trio's documentation has them: sections of the page "Trio's core
#: functionality", and the entries of its reference.
RULES = {
    "absorb": "A scope catches the Cancelled that it has caused, and no other. [cancelled_caught]",
    "inside": "Cancelling a scope reaches all that is inside. [Cancellation semantics]",
    "outside": "It reaches nothing outside. [Cancellation semantics]",
    "level": "While a scope is cancelled, each wait in it is. [Cancellation semantics]",
    "outer wins": "Cancelled passes a scope if one further out is cancelled, too. [CancelScope]",
    "shield": "A shield keeps cancellation of what is outside away. [shield]",
    "own shield": "A scope's shield does not protect from the scope itself. [shield]",
    "shield moves": "shield can be changed at any time, and counts at once. [shield]",
    "after shield": "What a shield has kept away is found when it is left. [shield]",
    "deadline": "When a scope's deadline is over, the scope is cancelled. [deadline]",
    "deadline moves": "deadline can be changed at any time, and counts at once. [deadline]",
    "early": "A scope that is cancelled before it is entered cancels its first wait. [CancelScope]",
    "unseen": "Without a wait nothing is raised, though cancel_called is true. [cancel_called]",
    "idempotent": "Cancelling again does nothing. [cancel]",
    "other error": "Other exceptions pass. [cancelled_caught]",
    "child": "A child that is cancelled ends alone. [Nurseries and spawning]",
    "group": "A group's cancel_scope is around all its children. [Nursery.cancel_scope]",
    "failure": "If a child fails, its siblings are cancelled. [Errors in multiple child tasks]",
    "timeout": "fail_at raises if its deadline has ended the body. [fail_at]",
    "no timeout": "fail_at raises nothing if the body was ended from out- or inside. [fail_at]",
    # trio's fail_at raises here, too. Ours tells a timeout from a cancellation.
    "only a timeout": "fail_at raises nothing if somebody has called cancel().",
}


@dataclass
class Row:
    """One program and what becomes of it."""

    rule: str
    #: From outside in. "!": with a shield. "?": by `fail_at`. "@past", "@far": its deadline. "~":
    #: cancelled before it is entered.
    scopes: str
    #: What is done, in order: `cancel`, `shield`/`unshield`, `past`/`far` (moves the deadline) and
    #: the scope's name; "child" and "group" are those around the body. "fail": a sibling fails. "+"
    #: joins what nobody can see the one of without the other.
    actions: str
    #: "cancelled" or "finished" for the wait. Then each scope after which the body goes on; each
    #: time it goes through a checkpoint. "end": it has ended by itself.
    trace: str
    #: The scopes that have caught a Cancelled.
    caught: str = ""
    #: The scopes that were cancelled; like `caught` if it is not said.
    called: str | None = None
    #: What `current_effective_deadline` says before the wait, if nothing was done before.
    effective: float | None = None
    #: How often the body waits again after a Cancelled.
    again: int = 0
    #: Raises this where the wait was cancelled.
    raises: str = ""
    waits: bool = True
    #: Whether trio itself does otherwise.
    ours: bool = False

    def __str__(self) -> str:
        return f"{self.rule}: {self.scopes}, {self.actions or 'nothing'}".replace(" ", "_")


FAR = 1e6
ROWS = [
    Row("absorb", "o", "cancel o", "cancelled o end", "o"),
    Row("absorb", "o i", "cancel i", "cancelled i o end", "i"),
    Row("inside", "o i", "cancel o", "cancelled o end", "o"),
    Row("inside", "a o i", "cancel a", "cancelled a end", "a"),
    Row("outside", "a o i", "cancel o", "cancelled o a end", "o"),
    Row("outside", "a o i", "cancel i", "cancelled i o a end", "i"),
    Row("outer wins", "o i", "cancel i + cancel o", "cancelled o end", "o", "o i"),
    Row("outer wins", "o i", "cancel o + cancel i", "cancelled o end", "o", "o i"),
    Row("outer wins", "a o i", "cancel i + cancel a", "cancelled a end", "a", "a i"),
    Row("idempotent", "o", "cancel o + cancel o", "cancelled o end", "o"),
    Row("level", "o", "cancel o", "cancelled cancelled cancelled o end", "o", again=2),
    Row("level", "o i", "cancel o", "cancelled cancelled o end", "o", again=1),
    Row("level", "o@past", "", "cancelled cancelled o end", "o", again=1, effective=-math.inf),
    # Shields.
    Row("after shield", "o i!", "cancel o", "finished i o end", "o"),
    Row("after shield", "a o! i", "cancel a", "finished i o a end", "a"),
    Row("after shield", "a o i!", "cancel a", "finished i a end", "a"),
    Row("after shield", "a o! i!", "cancel a", "finished i o a end", "a"),
    Row("after shield", "a o! i!", "cancel o", "finished i o a end", "o"),
    Row("own shield", "o!", "cancel o", "cancelled o end", "o"),
    Row("own shield", "o i!", "cancel i", "cancelled i o end", "i"),
    Row("shield", "o i!", "cancel i + cancel o", "cancelled i o end", "i o", "i o"),
    Row("shield", "a o! i", "cancel i", "cancelled i o a end", "i"),
    Row("shield", "a o! i", "cancel o", "cancelled o a end", "o"),
    Row("shield", "a o! i", "cancel o + cancel a", "cancelled o a end", "o a", "o a"),
    Row("shield moves", "o i!", "cancel o; unshield i", "cancelled o end", "o"),
    Row("shield moves", "o i", "shield i; cancel o", "finished i o end", "o"),
    Row("shield moves", "o i!", "unshield i; cancel o", "cancelled o end", "o"),
    Row("shield moves", "o i!", "cancel o; cancel i", "cancelled i o end", "i o", "i o"),
    Row("shield moves", "a o! i!", "cancel a; unshield i", "finished i o a end", "a"),
    Row("shield moves", "a o! i!", "cancel a; unshield i; unshield o", "cancelled a end", "a"),
    # Deadlines.
    Row("deadline", "o@past", "", "cancelled o end", "o", effective=-math.inf),
    Row("deadline", "o@far", "", "finished o end", effective=FAR),
    Row("deadline", "o@past i", "", "cancelled o end", "o", effective=-math.inf),
    Row("deadline", "o i@past", "", "cancelled i o end", "i", effective=-math.inf),
    Row("deadline", "o@far i@past", "", "cancelled i o end", "i", effective=-math.inf),
    Row("deadline", "o i@far", "", "finished i o end", effective=FAR),
    Row("deadline", "o@far i", "", "finished i o end", effective=FAR),
    Row("deadline", "o i", "", "finished i o end", effective=math.inf),
    Row("outer wins", "o@past i@past", "", "cancelled o end", "o", "o i", effective=-math.inf),
    Row("after shield", "o@past i!", "", "finished i o end", "o", effective=math.inf),
    Row("shield", "o@far i!", "", "finished i o end", effective=math.inf),
    Row("shield", "o@past i!@far", "", "finished i o end", "o", effective=FAR),
    Row("own shield", "o!@past", "", "cancelled o end", "o", effective=-math.inf),
    Row("deadline moves", "o", "past o", "cancelled o end", "o"),
    Row("deadline moves", "o@far", "past o", "cancelled o end", "o"),
    Row("deadline moves", "o@far", "far o", "finished o end"),
    Row("deadline moves", "o i", "past i", "cancelled i o end", "i"),
    Row("deadline moves", "o i!", "past o", "finished i o end", "o"),
    Row("deadline moves", "o i!", "past o; unshield i", "cancelled o end", "o"),
    Row("deadline moves", "o@far i!", "past o; past i", "cancelled i o end", "i o", "i o"),
    Row("idempotent", "o", "cancel o + far o", "cancelled o end", "o"),
    # fail_at.
    Row("timeout", "o?@past", "", "cancelled o:timeout end", "o"),
    Row("timeout", "o?@far", "past o", "cancelled o:timeout end", "o"),
    Row("timeout", "o i?@past", "", "cancelled i:timeout o end", "i"),
    Row("timeout", "o?@past i?@past", "", "cancelled o:timeout end", "o", "o i"),
    Row("timeout", "o?@past i!?@past", "", "cancelled i:timeout o:timeout end", "o i"),
    Row("no timeout", "o?@far", "", "finished o end"),
    Row("no timeout", "o i?@far", "cancel o", "cancelled o end", "o"),
    Row("no timeout", "o@past i?@far", "", "cancelled o end", "o"),
    Row("no timeout", "o?@far i", "cancel i", "cancelled i o end", "i"),
    Row("no timeout", "o?@far i@past", "", "cancelled i o end", "i"),
    Row("only a timeout", "o?@far", "cancel o", "cancelled o end", "o", ours=True),
    Row("only a timeout", "o?@far", "cancel o + past o", "cancelled o end", "o", ours=True),
    # Without a wait, early, and with other exceptions.
    Row("unseen", "o", "cancel o", "finished o end", "", "o", waits=False),
    Row("unseen", "o@past", "", "finished o end", "", "o", waits=False),
    Row("unseen", "o?@past", "", "finished o end", "", "o", waits=False),
    Row("unseen", "o i", "cancel o", "finished i o end", "o", waits=False),
    Row("early", "o~", "", "cancelled o end", "o", effective=-math.inf),
    Row("early", "o~ i", "", "cancelled o end", "o", effective=-math.inf),
    Row("early", "o~ i!", "", "finished i o end", "o", effective=math.inf),
    Row("other error", "o", "cancel o", "cancelled error", "", "o", raises="Boom"),
    Row("other error", "o i", "cancel i", "cancelled error", "", "i", raises="Boom"),
    # The scopes of children and groups.
    Row("child", "o", "cancel child", "cancelled"),
    Row("child", "o!", "cancel child", "finished o"),
    Row("child", "o i", "cancel child + cancel i", "cancelled", "", "i"),
    Row("child", "o! i", "cancel child; cancel i", "cancelled i o", "i", "i"),
    Row("child", "o", "past child", "cancelled"),
    Row("group", "o", "cancel group", "cancelled"),
    Row("group", "o!", "cancel group", "finished o"),
    Row("group", "o", "past group", "cancelled"),
    Row("group", "o", "shield group; cancel group", "cancelled"),
    Row("failure", "o", "fail", "cancelled failed"),
    Row("failure", "o!", "fail", "finished o failed"),
]


@dataclass
class Outcome:
    trace: list[str] = field(default_factory=list)
    caught: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    effective: float | None = None


def expected(row: Row) -> Outcome:
    called = row.caught if row.called is None else row.called
    return Outcome(row.trace.split(), set(row.caught.split()), set(called.split()), row.effective)


class Program:
    """A row, running."""

    def __init__(self, row: Row, api: Any, place: Place, before: Callable[[], None]) -> None:
        self.row = row
        self.api = api
        self.place = place
        self.before = before
        self.outcome = Outcome()
        self.scopes: dict[str, Any] = {}
        now = api.current_time()
        for text in row.scopes.split():
            name, _, deadline = text.rstrip("~").partition("@")
            make = api.fail_at if "?" in name else api.CancelScope
            arguments = {"deadline": {"": math.inf, "past": now - 1, "far": now + FAR}[deadline]}
            manager = make(**arguments)
            self.scopes[name.strip("!?")] = [manager, "!" in name, "~" in text]

    async def body(self) -> None:
        await self.inside(list(self.scopes))
        self.outcome.trace.append("end")

    async def inside(self, names: list[str]) -> None:
        if not names:
            return await self.wait()
        name, *further_in = names
        manager, shield, early = self.scopes[name]
        if early:
            manager.cancel()
        scope = None
        note = name
        try:
            with manager as scope:
                self.scopes[name] = scope
                if shield:
                    scope.shield = True
                await self.inside(further_in)
        except self.api.timeout:
            note += ":timeout"
        finally:
            if scope.cancelled_caught:
                self.outcome.caught.add(name)
            if scope.cancel_called:
                self.outcome.called.add(name)
        self.outcome.trace.append(note)
        await self.api.checkpoint()

    async def wait(self) -> None:
        if self.row.effective is not None:
            effective = self.api.current_effective_deadline()
            if math.isfinite(effective):
                assert abs(effective - self.api.current_time() - FAR) < 60
                effective = FAR
            self.outcome.effective = effective
        self.before()
        for again in range(self.row.again + 1):
            try:
                if self.row.waits:
                    await self.place.wait()
                self.outcome.trace.append("finished")
            except BaseException as error:
                self.outcome.trace.append(kind_of(error))
                if self.row.raises:
                    raise Boom from None
                if again == self.row.again:
                    raise


def kind_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    cancelled = type(error).__name__ in ("Cancelled", "CancelledError")
    return "cancelled" if cancelled else repr(error)


class Actions:
    """What is done to the scopes of a program."""

    def __init__(self, program: Program, current_time: Callable[[], float]) -> None:
        self.program = program
        self.current_time = current_time
        self.child: Any = None
        self.group: Any = None
        self.fail: Callable[[], object] = lambda: None

    def steps(self) -> Iterator[Callable[[], None]]:
        for step in self.program.row.actions.split(";"):
            if step.strip():
                yield lambda step=step: self.do(step)  # type: ignore[misc]

    def do(self, step: str) -> None:
        for action in step.split("+"):
            verb, _, name = action.strip().partition(" ")
            if verb == "fail":
                self.fail()
                continue
            own = {"child": self.child, "group": self.group and self.group.cancel_scope}
            scope = own[name] if name in own else self.program.scopes[name]
            if verb == "cancel":
                scope.cancel()
            elif verb in ("shield", "unshield"):
                scope.shield = verb == "shield"
            else:
                scope.deadline = self.current_time() + {"past": -1, "far": FAR}[verb]


def can_do_itself(row: Row) -> bool:
    """Before its wait, at one go: what depends on that the wait has begun cannot."""
    return bool(row.actions) and ";" not in row.actions and "fail" not in row.actions


def cases() -> list[Any]:
    found = []
    for row in ROWS:
        whos = ["task", "thread"] if row.actions and row.waits else []
        if can_do_itself(row):
            whos.append("itself")
        for who in whos or ["nobody"]:
            found.append(pytest.param(row, who, id=f"{row}, by {who}".replace(" ", "_")))
    return found


CASES = cases()
APIS: dict[str, type[AsyncApi]] = {"async": AsyncApi, "sync": SyncApi, "thread": ThreadApi}


async def run_row(
    row: Row, who: str, api: Any, make: Callable[[], Place], settle: Settle, top: Any
) -> Outcome:
    """Runs the program of a row in a child of a group of its own, below `top`'s."""

    def before() -> None:
        if who == "itself":
            for step in actions.steps():
                step()

    place = make()
    program = Program(row, api, place, before)
    actions = Actions(program, api.current_time)
    trace = program.outcome.trace

    async def guarded() -> None:
        try:
            await program.body()
        except Boom:
            trace.append("error")

    async def fail() -> None:
        raise Boom

    try:
        async with aevent.TaskGroup() as group:
            actions.group = group
            actions.fail = lambda: group.start_soon(fail)
            actions.child = api.spawn(group, guarded)
            with aevent.CancelScope(shield=True):
                await settle()
                if who in ("task", "thread"):
                    for step in actions.steps():
                        if who == "task":
                            step()
                        else:
                            top.spawn(step)
                        await settle()
                # Nothing else ends a wait that is cancelled, however long that takes.
                if "finished" in row.trace:
                    place.release()
    except BaseExceptionGroup as group_error:
        assert [type(error) for error in group_error.exceptions] == [Boom]
        trace.append("failed")
    finally:
        place.close()
    return program.outcome


@pytest.fixture(autouse=True)
def no_preemption() -> Iterator[None]:
    """A green thread preempted between the actions of "+" shows the one without the other.

    That happens if the collector's turn comes just there and takes long.
    """
    aevent.setup(preempt=False)
    yield
    aevent.setup(preempt=True)


def test_the_table_has_every_rule_and_enough_cases() -> None:
    assert {row.rule for row in ROWS} == set(RULES)
    assert len(CASES) * len(APIS) >= 120


@pytest.mark.parametrize("kind", APIS)
@pytest.mark.parametrize(("row", "who"), CASES)
def test_row(run: Run, settle: Settle, row: Row, who: str, kind: str) -> None:
    api = APIS[kind]()

    async def main() -> None:
        async with aevent.TaskGroup() as top:
            for name, make in api.places().items():
                if name == "sleep" and not row.trace.startswith("cancelled"):
                    continue  # nobody could end it
                outcome = await run_row(row, who, api, make, settle, top)
                assert (name, outcome) == (name, expected(row))

    run(main)


# --- the same, asked of trio ---


def is_trios(row: Row, who: str) -> bool:
    """Whether trio has that rule, and has that kind of task."""
    return not row.ours and who != "thread"


@pytest.mark.parametrize(
    ("row", "who"),
    [case for case in CASES if is_trios(*case.values)],
)
def test_trio_itself_does_what_the_row_says(row: Row, who: str) -> None:
    pytest.importorskip("trio")
    import trio.testing

    api = TrioApi()

    async def run_on_trio(make: Callable[[], Place]) -> Outcome:
        def before() -> None:
            if who == "itself":
                for step in actions.steps():
                    step()

        place = make()
        program = Program(row, api, place, before)
        actions = Actions(program, trio.current_time)
        trace = program.outcome.trace
        actions.child = trio.CancelScope()

        async def child() -> None:
            try:
                with actions.child:
                    await program.body()
            except Boom:
                trace.append("error")

        async def fail() -> None:
            raise Boom

        try:
            async with trio.open_nursery() as nursery:
                actions.group = nursery
                actions.fail = lambda: nursery.start_soon(fail)
                nursery.start_soon(child)
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    if who == "task":
                        for step in actions.steps():
                            step()
                            await trio.testing.wait_all_tasks_blocked()
                    if "finished" in row.trace:
                        place.release()
        except BaseExceptionGroup as group_error:
            matching, rest = group_error.split(Boom)
            assert matching is not None and rest is None
            trace.append("failed")
        return program.outcome

    async def main() -> None:
        for make in (api.event, api.group, api.start):
            outcome = await run_on_trio(make)
            assert (make.__name__, outcome) == (make.__name__, expected(row))

    trio.run(main)
