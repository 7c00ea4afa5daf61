"""`help()` tells what each public name does."""

from __future__ import annotations

import inspect

import pytest

import aevent
from aevent import _core


def public_members() -> list[tuple[str, object]]:
    members: list[tuple[str, object]] = []
    for name in sorted(vars(aevent)):
        value = getattr(aevent, name)
        if name.startswith("_") or inspect.ismodule(value) or name == "annotations":
            continue
        members.append((name, value))
        if inspect.isclass(value):
            members += [
                (f"{name}.{member}", inspect.getattr_static(value, member))
                for member in vars(value)
                if not member.startswith("_")
            ]
    return members


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=name) for name, value in public_members()]
)
def test_a_public_name_has_a_docstring(value: object) -> None:
    doc = inspect.getdoc(value)
    assert doc and len(doc.split()) >= 2 and "_core.pyi" not in doc


def test_what_stands_for_a_function_has_its_docstring() -> None:
    pair = aevent.patch_(lambda: None, name="a.b", orig=len)
    assert pair.__doc__ == len.__doc__
    assert _core.PatchedFunction.__name__ == "PatchedFunction"


def test_a_signature_is_kept() -> None:
    assert list(inspect.signature(_core.CancelScope.cancel).parameters) == ["self", "reason"]
    assert list(inspect.signature(aevent.open_memory_channel).parameters) == ["max_buffer_size"]
