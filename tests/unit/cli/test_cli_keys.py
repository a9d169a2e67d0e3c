"""`imagekin keys`, called as users call it, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from imagekin import api_keys
from imagekin.cli.app import app
from imagekin.database.engine import Database


@pytest.fixture
def call(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("IMAGEKIN_DATABASE_URL", migrated_url)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments])

    return call


def test_a_key_is_printed_once_and_lets_its_owner_in(call: Callable[..., Result], database: Database) -> None:
    done = call("create", "ada")
    assert done.exit_code == 0, done.stderr
    text = done.stdout.strip()
    found = database.read(api_keys.find, text)
    assert found is not None
    assert found[0].owner == "ada"
    assert found[0].id in done.stderr
    assert text not in done.stderr + call("list").output + call("list", "--json").output


def test_keys_are_json_for_programs(call: Callable[..., Result], database: Database) -> None:
    made = json.loads(call("create", "ada", "--json").stdout)
    assert made.keys() == {"id", "owner", "created_at", "last_used_at", "revoked_at", "key"}
    assert database.read(api_keys.find, made["key"]) is not None
    database.write(api_keys.note_use, made["id"])
    assert json.loads(call("revoke", made["id"], "--json").stdout)["revoked_at"]
    (listed,) = json.loads(call("list", "--json").stdout)["items"]
    assert "key" not in listed
    assert listed["last_used_at"].endswith("Z")
    assert listed["revoked_at"].endswith("Z")


def test_a_revoked_key_is_dead_and_listed(call: Callable[..., Result], database: Database) -> None:
    text = call("create", "ada").stdout.strip()
    key_id = call("list").stdout.splitlines()[1].split("\t")[0]
    assert call("revoke", key_id).exit_code == 0
    assert database.read(api_keys.find, text) is None
    (row,) = call("list").stdout.splitlines()[1:]
    assert row.split("\t")[4]


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "a b"), 2, "1 to 128 letters"),
        (("create", ""), 2, "1 to 128 letters"),
        (("create",), 2, "OWNER"),
        (("revoke", "none"), 1, "imagekin keys list"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    call: Callable[..., Result], arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = call(*arguments)
    assert done.exit_code == code
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("engine", ["sqlite"])
def test_without_tables_it_says_what_to_do(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGEKIN_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    done = call("create", "ada")
    assert done.exit_code == 1
    assert "imagekin db upgrade" in done.stderr
