"""`python -m aevent`: runs an unmodified program, patched, as the main task of `aevent.run`.

The program finds what it would find in plain Python: `sys.argv`, `sys.path[0]`, the module
`__main__`, its exit status, tracebacks without a frame of ours.
"""

from __future__ import annotations

import atexit
import builtins
import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from . import _core, _run, run, setup
from ._exceptions import AeventError
from ._monkey import atexit as patched_atexit

USAGE = """\
usage: python -m aevent [--backend BACKEND] [--exclude MODULE]... PROGRAM [argument]...

Runs a Python program whose threads are green threads and whose blocking calls cooperate.

PROGRAM is one of
  FILE                a script, or a folder or zip file with a __main__.py
  -m MODULE           a module, as python -m runs it
  -c CODE             a program passed in as a string
  -                   a program read from standard input

options:
  -b, --backend BACKEND   native, asyncio or trio (default: AEVENT_BACKEND, else native)
  -x, --exclude MODULE    leave this module of the standard library as it is; may be repeated
  --no-preempt            do not preempt green threads that compute
  -h, --help              show this text and exit
  --version               show the version and exit

environment:
  AEVENT_BACKEND          the backend, unless --backend says it
  AEVENT_WARN_BLOCKING    seconds: what holds up the loop for longer is logged
"""


class Options(NamedTuple):
    """The command line. `kind` is "file", "-m", "-c" or "-"."""

    backend: str | None
    exclude: list[str]
    kind: str
    program: str
    arguments: list[str]
    preempt: bool = True


def _refuse(what: object) -> NoReturn:
    print(f"aevent: error: {what}\n{USAGE.splitlines()[0]}", file=sys.stderr)
    raise SystemExit(2)


def parse(arguments: list[str]) -> Options:
    """Reads our own options; what follows the program is the program's."""
    backend: str | None = None
    exclude: list[str] = []
    preempt = True
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument in ("-h", "--help"):
            print(USAGE, end="")
            raise SystemExit(0)
        if argument == "--version":
            from . import __version__  # not set yet when this module is imported first

            print(f"aevent {__version__}")
            raise SystemExit(0)
        if name in ("-b", "--backend", "-x", "--exclude"):
            if not equals:
                value = next(rest, "")
            if not value:
                _refuse(f"{name} needs a value")
            if name in ("-b", "--backend"):
                backend = value
            else:
                exclude += value.split(",")
        elif argument == "--no-preempt":
            preempt = False
        elif argument in ("-m", "-c"):
            program = next(rest, None)
            if program is None:
                _refuse(f"{argument} needs a value")
            return Options(backend, exclude, argument, program, [*rest], preempt)
        elif argument == "-":
            return Options(backend, exclude, "-", "-", [*rest], preempt)
        elif argument == "--":
            break
        elif argument.startswith("-"):
            _refuse(f"there is no option {argument}")
        else:
            return Options(backend, exclude, "file", argument, [*rest], preempt)
    file = next(rest, None)
    if file is None:
        _refuse("which program? Name a file, or use -m or -c")
    return Options(backend, exclude, "file", file, [*rest], preempt)


#: Ours, whose globals are still needed when the program's has taken its place.
_former_main: types.ModuleType | None = None


def _new_main(file: str | None, loader: object) -> dict[str, Any]:
    """Puts an empty `__main__` in our own's place and returns its namespace."""
    global _former_main
    _former_main = sys.modules.get("__main__")
    module = types.ModuleType("__main__")
    namespace = vars(module)
    namespace.update(__builtins__=builtins, __annotations__={}, __loader__=loader)
    if file is not None:
        namespace.update(__file__=file, __cached__=None)
    sys.modules["__main__"] = module
    return namespace


def _set_path(first: str) -> None:
    """`sys.path[0]` is where the program is, unless Python was told not to look there."""
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = first


def _code(source: bytes | str, name: str) -> types.CodeType:
    code: types.CodeType = compile(source, name, "exec", dont_inherit=True)
    return code


def prepare(options: Options) -> Callable[[], None]:
    """Sets up what the program finds and returns a function that runs it.

    Exits as Python does if there is no such program.
    """
    program = options.program
    sys.argv[:] = [program if options.kind == "file" else options.kind, *options.arguments]
    if options.kind == "-m":
        # `python -m aevent` has put the current folder first, as `python -m` does.
        _new_main(None, None)
        run_module: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
        return lambda: run_module(program)
    if options.kind in ("-c", "-"):
        _set_path("")
        namespace = _new_main(None, importlib.machinery.BuiltinImporter)
        if options.kind == "-c":
            if sys.version_info >= (3, 13):  # tracebacks show its lines
                lines = [line + "\n" for line in program.splitlines()]
                linecache.cache["<string>"] = (len(program), None, lines, "<string>")
            return lambda: exec(_code(program + "\n", "<string>"), namespace)
        source = sys.stdin.buffer.read()
        return lambda: exec(_code(source, "<stdin>"), namespace)
    path = os.path.abspath(program)
    if pkgutil.get_importer(program) is not None:
        # Python puts it there in any case: it is the program.
        if getattr(sys.flags, "safe_path", sys.flags.isolated):
            sys.path.insert(0, path)
        else:
            sys.path[0] = path
        _new_main(None, None)
        run_module = runpy._run_module_as_main  # type: ignore[attr-defined]
        return lambda: run_module("__main__", False)
    try:
        with io.open_code(path) as file:
            text = file.read()
    except OSError as error:
        print(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    _set_path(os.path.dirname(os.path.realpath(path)))
    if path.endswith(".pyc"):
        sourceless = importlib.machinery.SourcelessFileLoader("__main__", path)
        namespace = _new_main(path, sourceless)
        return lambda: exec(sourceless.get_code("__main__"), namespace)  # type: ignore[arg-type]
    namespace = _new_main(path, importlib.machinery.SourceFileLoader("__main__", path))
    return lambda: exec(_code(text, path), namespace)


#: Whether a host drives the loop of the program's process.
_run_on_host = False

#: The program has ended; threads of its are waited for.
_is_over = False

#: What becomes of the process: an exit status, or KeyboardInterrupt.
_outcome: BaseException | None = None


def _call(program: Callable[[], None]) -> None:
    """Runs the program, and reports its exception before its threads are waited for."""
    global _is_over, _outcome
    process = os.getpid()
    failure: BaseException | None = None
    try:
        program()
    except SystemExit as error:
        _outcome = _exit_status(error.code)
    except BaseException as error:
        failure = error
    # Not while it is being handled: it would be the context of what `sys.excepthook` raises.
    if failure is not None:
        traceback = failure.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
            traceback = traceback.tb_next
        _core.print_exception(failure.with_traceback(traceback))
        _outcome = KeyboardInterrupt() if isinstance(failure, KeyboardInterrupt) else SystemExit(1)
        failure = None
    if os.getpid() != process and _core.get_host() is None and _run_on_host:
        # In the child of a fork there is no host to go back to: the process ends with this task.
        atexit._run_exitfuncs()
        raise _outcome or SystemExit(0)
    _is_over = True


def _exit_status(code: object) -> SystemExit:
    """What ends the process as `SystemExit(code)` ends it, whose text is written here and now."""
    if code is None or isinstance(code, int):
        return SystemExit(code)
    sys.stdout.flush()
    print(code, file=sys.stderr)
    return SystemExit(1)


def _ignore(error: BaseException) -> None:
    """Reports what a signal has raised while threads were waited for, as the interpreter does.

    It ends the wait, and changes nothing of what becomes of the process.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    source = threading if sys.version_info < (3, 13) else None
    _core.print_ignored(error.with_traceback(traceback), source)


def _silently(*_: object) -> None:
    """`sys.excepthook` for an exception that has been reported."""
    sys.excepthook = _excepthook


_excepthook = sys.excepthook


def main() -> None:
    """Runs the program that the command line names, and ends the process as it ends."""
    global _excepthook, _run_on_host
    options = parse(sys.argv[1:])
    try:
        setup(options.backend, exclude=options.exclude, preempt=None if options.preempt else False)
    except AeventError as error:
        _refuse(error)
    program = prepare(options)
    _run_on_host = _run.default_backend() != "native"
    _run.abandon_daemons = True
    try:
        run(_call, program)
    except (KeyboardInterrupt, SystemExit) as error:
        if not _is_over:
            raise
        _ignore(error)
    finally:
        if "atexit" not in options.exclude:
            patched_atexit.run_all_in_task()
    if _outcome is not None:
        _excepthook, sys.excepthook = sys.excepthook, _silently
        raise _outcome


if __name__ == "__main__":
    main()
