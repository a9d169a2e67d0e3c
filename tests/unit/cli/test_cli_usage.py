"""Wrong calls, help, completion, and where the service is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.fake_server import FakeServer
from kit.terminal import COMMAND, Call


@pytest.mark.parametrize("command", ["api", "worker", "db", "keys", "doctor"])
def test_short_help_of_the_services_commands(call: Call, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(command, "-h")
    assert done.code == 0
    assert f"Usage: imagekin {command}" in done.out or f"Usage: root {command}" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("embed", "x"),
        ("cluster", "-c", "c"),
        ("cluster", "-c", "c", "-k", "0"),
        ("search", "a", "-c", "c", "-k", "many"),
        ("jobs", "list", "--status", "odd"),
        ("demo", "no-such-folder"),
    ],
)
def test_usage(call: Call, server: FakeServer, arguments: tuple[str, ...]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert server.requests == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("imagekin se", {"search", "select"}),
        ("imagekin jobs re", {"retry"}),
        ("imagekin search a.png --min", {"--min-score"}),
        ("imagekin search a.png -c ar", {"archive", "art"}),
        ("imagekin jobs show j", {"j1"}),
        ("imagekin keys ", {"create", "list", "revoke"}),
        ("imagekin keys create --js", {"--json"}),
        ("imagekin doctor --js", {"--json"}),
        ("imagekin --url http://127.0.0.1:1 search a.png -c ar", set()),
    ],
)
def test_completion(server: FakeServer, words: str, offered: set[str]) -> None:
    for name in ("archive", "art", "zebra"):
        server.add_collection(name)
    server.add_job("cluster", {"collection": "art"})
    asked = {"_IMAGEKIN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        COMMAND,
        env={**os.environ, "IMAGEKIN_URL": server.url, **asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert set(done.stdout.split()) == offered
    assert done.stderr == ""


def test_version(call: Call) -> None:
    from importlib import metadata

    assert call("--version").out == f"imagekin {metadata.version('imagekin')}\n"


_WITHOUT_SERVICE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sqlalchemy", "celery", "redis", "fsspec", "torch", "flask", "PIL", "structlog"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from imagekin.cli import main
main()
"""


def test_help_lists_commands_that_cannot_be_imported_here(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _WITHOUT_SERVICE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)

    listed = run("--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    for name in ("demo", "up", "embed", "search", "cluster", "jobs", "collections", "api", "worker", "db"):
        assert f"│ {name} " in listed.stdout
    for arguments in (["api"], ["worker"], ["up"], ["demo"]):
        done = run(*arguments)
        assert done.returncode == 1, done.stderr
        assert 'pip install "imagekin[quickstart]"' in done.stderr
