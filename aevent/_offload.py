"""Real threads for calls that block in C: a call at a time, or by a rule for a name."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from . import _core
from ._exceptions import AeventError, AeventWarning
from ._imports import forget, when_imported

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def offload(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `fn(*args, **kwargs)` in a real thread while the task that asks parks.

    For synchronous functions that block where aevent cannot see it, mostly in C. Returns what `fn`
    returns and raises what it raises, BaseExceptions too. `fn` sees a copy of the caller's context,
    and the original standard library: it is in a real thread, which may be another one each time.

    Cancellation abandons the call: the task goes on at once; `fn`, if it has begun, runs to its end
    in its thread and the result is dropped. At most 64 calls run at once, and others wait for them.

    Outside a task, in a real thread and under `native()` it calls `fn` right there.
    """
    _refuse_async(fn, "offload()")
    result = _core.offload(fn, *args, **kwargs)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"offload() expects a synchronous function, but {fn!r} returned a coroutine. Await it."
        )
    return result


def _refuse_async(fn: Any, what: str) -> None:
    if not callable(fn):
        raise TypeError(f"{what} expects a function, not {fn!r}")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise TypeError(f"{what} expects a synchronous function, but {fn!r} is async. Await it.")
    if inspect.isgeneratorfunction(inner):
        raise TypeError(
            f"{what} expects a function that does its work when it is called, but {fn!r} is a "
            f"generator: it would run in the thread of whoever iterates over it."
        )


def _pair(fn: Callable[..., Any], name: str, *, binds: bool) -> Any:
    kind = _core.PatchedMethod if binds else _core.PatchedFunction
    return kind(
        fn,
        functools.partial(_core.offload, fn),
        getattr(fn, "__name__", name),
        getattr(fn, "__qualname__", name),
        getattr(fn, "__module__", None) or "?",
    )


class Offloaded:
    """A rule that `offloaded` has made. As a context manager it ends with the block."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Where the function was replaced, what it was, and whether it was that object's own.
        self._place: tuple[Any, str, Any, bool] | None = None
        parts = name.split(".")
        self._modules = [".".join(parts[:count]) for count in range(1, len(parts))]
        self._parts = parts

    @property
    def is_applied(self) -> bool:
        """Whether the function was found; if not, its module was not imported yet."""
        return self._place is not None

    def remove(self) -> None:
        """Ends the rule: the function is again what it was."""
        for module in self._modules:
            forget(module, self._on_import)
        if self in rules:
            rules.remove(self)
        if self._place is not None:
            owner, name, original, was_its_own = self._place
            self._place = None
            if was_its_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    def __enter__(self) -> Offloaded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "applied" if self.is_applied else "not imported yet"
        return f"<aevent.offloaded({self.name!r}), {state}>"

    def _start(self) -> None:
        """Applies it now, or when the module is imported."""
        for module in reversed(self._modules):
            if module in sys.modules and self._apply(sys.modules[module], module):
                return
        known = [module for module in self._modules if module in sys.modules]
        if known and self._is_nowhere(known[-1]):
            raise AttributeError(self._complaint(known[-1]))
        for module in self._modules[len(known) :]:
            when_imported(module, self._on_import)

    def _on_import(self, module: ModuleType) -> None:
        name = module.__name__
        if not self.is_applied and not self._apply(module, name) and self._is_nowhere(name):
            # Not raised: it would break the import, which somebody else has asked for.
            warnings.warn(
                f"{self._complaint(name)}: the rule is without effect", AeventWarning, stacklevel=2
            )

    def _is_nowhere(self, module: str) -> bool:
        """Whether the module, which was imported, has neither the name nor a module on the way."""
        step = ".".join(self._parts[: module.count(".") + 2])
        return step == self.name or importlib.util.find_spec(step) is None

    def _complaint(self, module: str) -> str:
        path = self.name[len(module) + 1 :]
        return f"offloaded({self.name!r}): the module {module!r} has nothing called {path!r}"

    def _apply(self, module: Any, module_name: str) -> bool:
        """Whether the name leads from this module to a function, which is replaced then."""
        path = self.name[len(module_name) + 1 :].split(".")
        owner = module
        try:
            for part in path[:-1]:
                owner = getattr(owner, part)
            target = inspect.getattr_static(owner, path[-1])
        except AttributeError:
            return False
        self._replace(owner, path[-1], target)
        for other in self._modules:
            forget(other, self._on_import)
        return True

    def _replace(self, owner: Any, name: str, target: Any) -> None:
        what = f"offloaded({self.name!r})"
        wraps: Callable[[Any], Any] | None = None
        if isinstance(target, (staticmethod, classmethod)):
            wraps, target = type(target), target.__func__
        if isinstance(target, (type, ModuleType)):
            kind = "class" if isinstance(target, type) else "module"
            raise AeventError(f"{what} names a {kind}: name a function or a method in it")
        _refuse_async(target, what)
        binds = isinstance(owner, type) and wraps is not staticmethod
        new = _pair(target, name, binds=binds)
        own = name in vars(owner)
        original = vars(owner)[name] if own else target
        try:
            setattr(owner, name, wraps(new) if wraps is not None else new)
        except TypeError:
            raise AeventError(
                f"{what}: {owner.__module__}.{owner.__qualname__} is a type written in C, whose "
                f"methods cannot be replaced. Derive a class from it in Python, name that one's "
                f"method here, and have it used (sqlite3: connect(…, factory=…)); or call "
                f"aevent.offload() where you call the method."
            ) from None
        self._place = (owner, name, original, own)


#: The rules in force, in order.
rules: list[Offloaded] = []


@overload
def offloaded(target: str, /) -> Offloaded: ...
@overload
def offloaded(target: F, /) -> F: ...
def offloaded(target: Any, /) -> Any:
    """Has every call of a function made as by `offload`, in tasks; elsewhere nothing changes.

    With a dotted name, "package.function" or "package.Class.method", that name is replaced where it
    is: at once if it was imported, else when it is. Returns the rule, whose `remove()` ends it, and
    which as a context manager ends with its block. Other names for the same function, taken by
    `from package import function` before, stay as they are.

    With a function it returns one that is offloaded: `@aevent.offloaded` above its definition.

    AttributeError if the module was imported and has no such name (if it is imported later, an
    `AeventWarning`); AeventError if it is a class or a method of a type written in C.
    """
    if not isinstance(target, str):
        _refuse_async(target, "offloaded()")
        return _pair(target, "function", binds=hasattr(type(target), "__get__"))
    if not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        raise ValueError(
            f"offloaded() expects a dotted name such as 'package.function', not {target!r}"
        )
    rule = Offloaded(target)
    rule._start()
    rules.append(rule)
    return rule
