"""What the command line says: what is so, in sentences, and in lines that can be copied."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from imagekin import errors, schemas
from imagekin.cli import output
from imagekin.client import Client
from kit.fake_server import FakeServer
from kit.terminal import Call

ID = "0197b3c4d5e6f708192a3b4c5d6e7f80"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on a terminal of 80 columns."""
    printed = io.StringIO()
    monkeypatch.setattr(output, "stdout", lambda: Console(file=printed, force_terminal=True, width=80, highlight=False))
    return printed


def lines(shown: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).splitlines()


def test_ids_and_names_are_never_folded(shown: io.StringIO) -> None:
    name = "c" * 128
    columns = ("id", "kind", "status", "collection", "done", "created")
    output.table(columns, [(ID, "embed", "succeeded", name, "3/3", "2026-01-02 03:04:05")] * 3, right=("done",))
    assert len(lines(shown)) == 4
    assert all(ID in line and name in line for line in lines(shown)[1:])


@pytest.mark.parametrize("key", ["short.png", "a/long/path/" * 20 + "a.png", "表" * 300])
def test_keys_are_folded_beside_ids_that_are_not(shown: io.StringIO, key: str) -> None:
    output.table(("rank", "score", "key", "id"), [(1, "0.9100", key, ID), (2, "0.9000", key, ID)])
    found = lines(shown)
    assert sum(ID in line for line in found) == 2
    assert max(map(len, found)) <= 80
    assert "".join(re.findall(r"[^\s]+", "".join(found).replace(ID, ""))).count(key[:5]) >= 2


def test_what_failed_is_folded_and_its_id_is_not(shown: io.StringIO) -> None:
    output.table(("key", "status", "id", "reason"), [("k" * 200, "failed", ID, "It is broken. " * 30)])
    assert any(ID in line for line in lines(shown))


def test_fields_are_never_folded(shown: io.StringIO) -> None:
    output.fields({"id": ID * 4, "error": "It is broken. " * 20})
    assert ID * 4 in "".join(lines(shown))


@pytest.mark.parametrize("name", ["a b", "", "-a", "a" * 129, "é", "a/b", "a\n", ".hidden"])
def test_a_bad_name_is_told_in_a_sentence(call: Call, server: FakeServer, name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(schemas.Name).validate_python(name)
    message = caught.value.errors()[0]["msg"]
    assert message.startswith("This is not a name: it has up to 128 letters")
    with Client(server.url) as client, pytest.raises(errors.InvalidRequest) as refused:
        client.create_collection(name)
    assert "pattern" not in refused.value.detail
    assert "letters" in refused.value.detail


def test_the_schema_of_names_still_says_what_they_are() -> None:
    schema = schemas.CollectionBody.model_json_schema()["properties"]["name"]
    assert schema["pattern"] == "^[A-Za-z0-9][A-Za-z0-9._-]*$"
    assert (schema["minLength"], schema["maxLength"], schema["type"]) == (1, 128, "string")


def test_a_source_root_that_is_not_there_is_told(call: Call) -> None:
    done = call("up", "--source-root", "/nope")
    assert done.code == 2
    assert "there is no folder /nope" in " ".join(done.err.split())


def test_a_job_whose_collection_was_deleted_says_so(call: Call, server: FakeServer, pictures: Path) -> None:
    error = {"code": "collection_deleted", "detail": errors.CollectionDeleted().detail}
    server.steps = [{"status": "cancelled", "error": error}]
    done = call("embed", str(pictures), "-c", "new")
    assert "its collection new was deleted with everything in it" in done.err
    assert "stays" not in done.err
    server.steps = [{"status": "cancelled"}]
    assert "finished images stay" in call("embed", str(pictures), "-c", "new").err
