"""`python -m aevent PROGRAM` does what `python PROGRAM` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BACKENDS = ("native", "asyncio", "trio")

#: Programs, by what is shown with them. What they print, and how they end, must not differ.
PROGRAMS = {
    "what it finds": """
import os, sys
print(sys.argv, sys.path[0], __name__, __file__, __package__, __cached__, __doc__)
print(__spec__ and (__spec__.name, __spec__.origin, __spec__.parent))
print(type(__loader__).__name__, sorted(vars(sys.modules["__main__"])) == sorted(globals()))
print(sys.modules["__main__"].__dict__ is globals(), sys.flags.dev_mode, sys.warnoptions)
print(sorted(name for name in globals() if name.startswith("__")))
""",
    "returns": "print('done')",
    "exits with a number": "import sys\nsys.exit(7)",
    "exits with a large number": "import sys\nsys.exit(2**40 + 3)",
    "exits with a text": "import sys\nprint('out')\nsys.exit('a text')",
    "exits with nothing": "raise SystemExit",
    "exits with an object": "import sys\nsys.exit(['a', 'list'])",
    "raises": """
def inner():
    raise ValueError("wrong")
def outer():
    try:
        inner()
    except ValueError as error:
        raise KeyError("worse") from error
outer()
""",
    "has a syntax error": "print('a'\nx = 1 1\n",
    "has an encoding": b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))\n",
    "has an excepthook": """
import sys
sys.excepthook = lambda kind, value, traceback: print("hook", kind, value, traceback.tb_lineno)
1 / 0
""",
    "has an excepthook that fails": """
import sys
def hook(*args):
    raise RuntimeError("in the hook")
sys.excepthook = hook
1 / 0
""",
    "leaves threads": """
import atexit, sys, threading, time
atexit.register(print, "atexit first")
atexit.register(print, "atexit second")
main_ends = threading.Event()
def worker():
    main_ends.wait()
    time.sleep(0.02)
    print("worker ends")
threading.Thread(target=worker).start()
print("main ends")
main_ends.set()
sys.exit(3)
""",
    "leaves threads when it raises": """
import threading, time
def worker():
    time.sleep(0.02)
    print("worker ends", flush=True)
threading.Thread(target=worker).start()
raise ValueError
""",
    "leaves a daemon that writes a record": """
import logging, sys, threading, time
began, main_ends = threading.Event(), threading.Event()
class Slow(logging.StreamHandler):
    def emit(self, record):
        began.set()
        main_ends.wait()
        time.sleep(0.02)
        super().emit(record)
logging.getLogger().addHandler(Slow(sys.stdout))
threading.Thread(target=logging.warning, args=("record",), daemon=True).start()
began.wait()
print("main ends", flush=True)
main_ends.set()
""",
    "leaves daemons": """
import threading, time, atexit
def worker():
    try:
        time.sleep(3600)
    finally:
        print("never")
class Noisy:
    def __del__(self):
        print("never either")
def holder():
    noisy = Noisy()
    threading.Event().wait()
for target in (worker, holder):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.01)
atexit.register(print, "atexit")
""",
    "exits in a thread": """
import sys, threading
thread = threading.Thread(target=sys.exit, args=(5,))
thread.start()
thread.join()
print("main goes on")
""",
    "raises in a thread": """
import threading
def worker():
    raise ValueError("in a thread")
threading.excepthook = lambda args: print(args.thread.name, args.exc_type, args.exc_value)
thread = threading.Thread(target=worker)
thread.start()
thread.join()
""",
    "interrupts itself": """
import os, signal, threading, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3600)
finally:
    print("finally")
""",
    "is interrupted while it waits": """
import os, signal, threading, time
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
time.sleep(3600)
""",
    "is ended by a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "reads its input": """
import sys
print(input(), sys.stdin.readline(), sys.stdin.read())
try:
    input("a prompt ")
except EOFError:
    print("at the end")
""",
    "pickles its own things": """
import pickle
class Thing:
    def __eq__(self, other):
        return type(other) is Thing
print(pickle.loads(pickle.dumps(Thing())) == Thing(), Thing.__module__, Thing)
""",
    "spawns processes": """
import multiprocessing
def double(x):
    return 2 * x
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=double, args=(2,))
    process.start()
    process.join()
    print(process.exitcode)
""",
    "warns": """
import warnings
warnings.warn("a warning")
""",
    "replaces its module's output": """
import sys
sys.stdout.write("no newline")
""",
    "runs an event loop": """
import asyncio, threading
async def main():
    await asyncio.sleep(0.001)
    print(await asyncio.to_thread(threading.main_thread) is threading.current_thread())
    raise LookupError
try:
    asyncio.run(main())
except LookupError:
    print("caught")
""",
    "is the main thread": """
import threading, signal
print(threading.current_thread() is threading.main_thread(), threading.main_thread().name)
print(threading.get_ident() == threading.main_thread().ident, threading.active_count())
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""",
    "forks": """
import os, sys
sys.stdout.flush()
child = os.fork()
if child == 0:
    print("child", flush=True)
    sys.exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(5)
""",
}


def outcome(
    *arguments: str, cwd: Path, options: tuple[str, ...] = (), stdin: str = "one\ntwo\nthree\n"
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *options, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    return done.returncode, done.stdout, done.stderr


def check(
    *program: str, cwd: Path, options: tuple[str, ...] = (), stdin: str = "1\n2\n3\n"
) -> None:
    expected = outcome(*program, cwd=cwd, options=options, stdin=stdin)
    for backend in BACKENDS:
        if backend == "trio":
            pytest.importorskip("trio")
        ours = ("-m", "aevent", "--backend", backend, *program)
        assert outcome(*ours, cwd=cwd, options=options, stdin=stdin) == expected, backend


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_script_that(what: str, tmp_path: Path) -> None:
    source = PROGRAMS[what]
    (tmp_path / "program.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    check("program.py", "an argument", "--backend", cwd=tmp_path)


@pytest.mark.parametrize("what", ["what it finds", "raises", "exits with a number", "warns"])
def test_a_module_that(what: str, tmp_path: Path) -> None:
    source = PROGRAMS[what]
    assert isinstance(source, str)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("print(__name__)")
    (tmp_path / "package" / "__main__.py").write_text("from . import part")
    (tmp_path / "package" / "part.py").write_text(source)
    check("-m", "package.part", "-m", "x", cwd=tmp_path)
    check("-m", "package", cwd=tmp_path)


@pytest.mark.parametrize("what", ["what it finds", "raises", "exits with a text"])
def test_a_folder_and_a_zip_file_that(what: str, tmp_path: Path) -> None:
    source = PROGRAMS[what]
    assert isinstance(source, str)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(source)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(tmp_path / "folder" / "__main__.py", "__main__.py")
    check("folder", "x", cwd=tmp_path)
    if sys.version_info < (3, 11) and what == "raises":
        # `exceptiongroup`, which is imported there, prints tracebacks with the lines of zip files.
        pytest.skip("Python 3.10 itself does not show the lines of a zip file")
    check("archive.zip", "x", cwd=tmp_path)


@pytest.mark.parametrize(
    "code", ["import sys; print(sys.argv, sys.path[0], __name__)", "1/0", "1 1"]
)
def test_a_string_and_the_input(code: str, tmp_path: Path) -> None:
    check("-c", code, "x", "-c", cwd=tmp_path)
    check("-", "x", cwd=tmp_path, stdin=code)


@pytest.mark.parametrize("options", [("-W", "error"), ("-u",), ("-X", "dev"), ("-O",), ("-E",)])
def test_options_of_python_count(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys\nprint(sys.flags, sys.stdout.line_buffering, sys.stdout.write_through)\n"
        "assert False, 'checked'"
    )
    check("program.py", cwd=tmp_path, options=options)


@pytest.mark.parametrize("program", [("missing.py",), ("-m", "missing"), ("-m", "missing.part")])
def test_a_program_that_is_not_there(program: tuple[str, ...], tmp_path: Path) -> None:
    check(*program, cwd=tmp_path)


def test_an_interrupted_process_ends_by_the_signal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import time\nprint('ready', flush=True)\ntime.sleep(3600)"
    )
    for ours in ((), *(("-m", "aevent", "-b", backend) for backend in BACKENDS)):
        process = subprocess.Popen(
            [sys.executable, *ours, "program.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
        assert process.returncode == -signal.SIGINT, ours
        # Where the signal has met it, we cannot know.
        assert err.startswith("Traceback") and err.endswith("KeyboardInterrupt\n"), err
        assert "aevent" not in err


def wait_until_parked(pid: int) -> None:
    """Until the main OS thread sleeps, and not for the interpreter, which it looks for each 5 ms.

    A signal just before would be noticed by no one: CPython looks for them, and then waits.
    """
    status = Path(f"/proc/{pid}/task/{pid}/status")
    before: list[str] = []
    while True:
        now = [
            line for line in status.read_text().splitlines() if line.startswith(("State", "vol"))
        ]
        if now == before and "S (sleeping)" in now[0]:
            return
        before = now
        time.sleep(0.05)


INTERRUPTED_AT_ITS_END = """
import signal, sys, threading
def handler(number, frame):
    raise SystemExit(4)
if "exits" in sys.argv:
    signal.signal(signal.SIGINT, handler)
def wait():
    threading.main_thread().join()
    print("ready", flush=True)
    threading.Event().wait()
threading.Thread(target=wait).start()
if "fails" in sys.argv:
    sys.exit(3)
"""


@pytest.mark.parametrize("case", ["returns", "fails", "exits"])
def test_an_interrupt_ends_the_wait_for_threads_and_changes_no_status(
    case: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(INTERRUPTED_AT_ITS_END)
    outcomes = []
    for ours in ((), *(("-m", "aevent", "-b", backend) for backend in BACKENDS)):
        process = subprocess.Popen(
            [sys.executable, *ours, "program.py", case],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until_parked(process.pid)
        process.send_signal(signal.SIGINT)
        lines = process.communicate()[1].splitlines()
        # In between is where the wait has been.
        outcomes.append((process.returncode, lines[0], lines[-1].rstrip(": ")))
    assert outcomes[1:] == outcomes[:1] * len(BACKENDS)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--help",), 0, "usage: python -m aevent"),
        (("--version",), 0, "aevent "),
        ((), 2, "which program?"),
        (("-m",), 2, "-m needs a value"),
        (("--backend",), 2, "--backend needs a value"),
        (("--backend", "curio", "x.py"), 2, "there is no backend 'curio'"),
        (("--backend=curio", "x.py"), 2, "there is no backend 'curio'"),
        (("--wrong", "x.py"), 2, "there is no option --wrong"),
    ],
)
def test_its_own_options(
    arguments: tuple[str, ...], status: int, text: str, tmp_path: Path
) -> None:
    code, out, err = outcome("-m", "aevent", *arguments, cwd=tmp_path)
    assert code == status
    assert text in (err if status else out)
    assert "Traceback" not in err


def test_the_program_is_patched_but_for_what_is_excluded(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import aevent._core, queue, sys, time\n"
        "print(aevent._core.task_kind(), type(time.sleep).__name__, queue.Queue.__module__)\n"
        "print(sys.modules['aevent._run'].chosen_backend)\n"
        "print(hasattr(queue.SimpleQueue, '_aevent_orig'))"
    )
    code, out, err = outcome("-m", "aevent", "-x", "queue,time", "program.py", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.split() == ["green", "builtin_function_or_method", "queue", "native", "False"]


@pytest.mark.parametrize("options", [(), ("--no-preempt",)])
def test_the_program_is_preempted_unless_not_wanted(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import threading, time\n"
        "go, up = threading.Event(), []\n"
        "thread = threading.Thread(target=lambda: (go.wait(), up.append(True)))\n"
        "thread.start()\n"
        "go.set()\n"
        "while time.process_time() < 0.5 and not up: pass\n"
        "print(bool(up))\n"
    )
    code, out, err = outcome("-m", "aevent", *options, "program.py", cwd=tmp_path)
    assert (code, out, err) == (0, f"{not options}\n", "")


def test_the_environment_chooses_the_backend(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import aevent._run\nprint(aevent._run.chosen_backend)")
    done = subprocess.run(
        [sys.executable, "-m", "aevent", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "AEVENT_BACKEND": "asyncio"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("asyncio\n", "")
