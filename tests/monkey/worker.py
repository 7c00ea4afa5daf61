"""Runs tests of one file in tasks of this process, which is patched first: see `conftest`.

Arguments: the file and the backend. Reads names of tests, one a line, and answers each with a line
of JSON: what went wrong, or null.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import traceback
import warnings

path, backend = sys.argv[1:]
sys.path.insert(0, os.getcwd())

import aevent

aevent.setup(backend)

#: Seconds for one test; then every stack is written out and the process ends. As in `conftest`.
TIMEOUT = float(os.environ.get("AEVENT_TEST_TIMEOUT", "120")) / 2

# faulthandler's watchdog is a thread of the system's.
warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
spec = importlib.util.spec_from_file_location("tests_in_a_task", path)
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)

unraisable: list[str] = []
sys.unraisablehook = lambda args: unraisable.append(
    "unraisable: "
    + "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
)

for line in sys.stdin:
    faulthandler.dump_traceback_later(TIMEOUT, exit=True)
    unraisable.clear()
    wrong = None
    try:
        aevent.run(getattr(module, line.strip()))
    except BaseException:
        wrong = traceback.format_exc()
    faulthandler.cancel_dump_traceback_later()
    answers.write(json.dumps(wrong or "\n".join(unraisable) or None) + "\n")
    answers.flush()
