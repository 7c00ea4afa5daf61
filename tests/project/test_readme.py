"""What the README shows works, and no tracked file tells where it was written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

# A block that opens with "```python run" is a whole program. It gets URLs as its arguments and is
# expected to fetch and print each. Other blocks are fragments and are left alone.
PROGRAMS = re.findall(r"^```python run\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_readme_has_a_program() -> None:
    assert PROGRAMS


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_readme_program_runs(program: str, server_url: str, tmp_path: Path) -> None:
    path = tmp_path / "readme_example.py"
    path.write_text(program)
    urls = [f"{server_url}/{number}" for number in range(10)]
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path), *urls],
        # Unbuffered, print() writes a line in pieces, and threads take turns between them.
        env={
            **os.environ,
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONUNBUFFERED": "",
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == [f"200 {url}" for url in urls]


# In the documentation, what a whole program prints stands below it.
DOCUMENTED = [
    pytest.param(program, output, id=f"{path.stem}-{number}")
    for path in sorted((ROOT / "docs").glob("*.md"))
    for number, (program, output) in enumerate(
        re.findall(
            r"^```python run\n(.*?)^```\n\n```output\n(.*?)^```$",
            path.read_text(),
            re.MULTILINE | re.DOTALL,
        )
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "asyncio", "trio"])
@pytest.mark.parametrize(("program", "output"), DOCUMENTED)
def test_documented_program_prints_what_is_said(
    program: str, output: str, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "documented_example.py"
    path.write_text(program)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env={**os.environ, "AEVENT_BACKEND": backend, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (result.stdout, result.stderr) == (output, "")


def test_commands_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_no_tracked_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git working tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    # The lookbehind lets the same words through inside a URL or a longer path.
    machine_path = re.compile(rb"(?<![\w.}/-])/(?:root|work|home/\w+|Users/\w+)/")
    found = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and machine_path.search(path.read_bytes()):
            found.append(name)
    assert not found
