"""The tests here run in a patched process; those of the plugin start pytest in fresh ones."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import aevent

aevent.setup("native")

#: Seconds for one test, as in `tests/conftest.py`.
TIMEOUT = float(os.environ.get("AEVENT_TEST_TIMEOUT", "120"))

#: What else may be installed that runs async tests.
OTHERS = ("anyio", "asyncio", "hypothesispytest", "trio", "xdist")


@pytest.fixture
def run_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Runs pytest on a test file, in a fresh interpreter, with no other plugin than `plugins`."""
    for name in ("AEVENT_BACKEND", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)

    def run(
        source: str, *args: str, plugins: tuple[str, ...] = (), warnings: str = "error"
    ) -> pytest.RunResult:
        pytester.makepyfile(source)
        without = [word for name in OTHERS if name not in plugins for word in ("-p", f"no:{name}")]
        return pytester.runpytest_subprocess(
            *("-p", "no:cacheprovider", "-W", warnings),
            *("-o", f"faulthandler_timeout={TIMEOUT / 2}"),
            *(*without, *args),
            timeout=TIMEOUT * 0.75,
        )

    return run


@pytest.fixture
def passes(run_pytest: Callable[..., pytest.RunResult]) -> Callable[..., pytest.RunResult]:
    """Runs pytest, and all tests must pass: `count` of them."""

    def run(source: str, *args: str, count: int, **options: object) -> pytest.RunResult:
        result = run_pytest(source, *args, **options)
        assert result.ret == 0, "see above"
        result.assert_outcomes(passed=count)
        return result

    return run
