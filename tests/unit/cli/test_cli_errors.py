"""What the command line says of what goes wrong."""

from __future__ import annotations

import pytest

from kit.fake_server import FakeServer, problem
from kit.terminal import Call


def test_an_unknown_collection_brings_its_nearest(call: Call, server: FakeServer) -> None:
    assert "no collection yet" in call("collections", "show", "archive").err
    server.add_collection("archive")
    server.add_collection("zebra")
    done = call("search", "a.png", "-c", "archiv")
    assert done.code == 1
    assert "[collection_not_found]" in done.err
    assert "Did you mean archive?" in done.err
    assert "There are: archive, zebra." in call("cluster", "-c", "123", "-k", "2").err


def test_a_server_that_is_down(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as gone:
        monkeypatch.setenv("IMAGEKIN_URL", gone.url)
    done = call("jobs", "list")
    assert done.code == 1
    assert gone.url in done.err
    assert "imagekin up" in done.err


def test_a_missing_key(call: Call, server: FakeServer) -> None:
    server.faults += [problem(200, "ok"), problem(401, "unauthorized", "A key is needed.")]
    done = call("jobs", "list")
    assert done.code == 1
    assert "A key is needed. [unauthorized]" in done.err
    assert "IMAGEKIN_API_KEY" in done.err


def test_an_unknown_job(call: Call) -> None:
    done = call("jobs", "show", "j9")
    assert done.code == 1
    assert "imagekin jobs list" in done.err
