from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin import api_keys, errors
from imagekin.database import tables
from imagekin.database.engine import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'keys.db'}")
    tables.Base.metadata.create_all(database.engine)
    yield database
    database.dispose()


def test_a_key_is_found_by_its_text_and_by_nothing_else(database: Database) -> None:
    row, text = database.write(api_keys.create, "ada")
    found = database.read(api_keys.find, text)
    assert found is not None
    assert (found[0].owner, found[1]) == ("ada", True)
    for other in (row.digest, row.id, text[:-1], text + "x", "", "\ud800"):
        assert database.read(api_keys.find, other) is None


def test_keys_are_long_random_and_marked_as_what_they_are(database: Database) -> None:
    texts = {database.write(api_keys.create, "ada")[1] for _ in range(20)}
    assert len(texts) == 20
    assert all(text.startswith("ik_") and len(text) > 40 for text in texts)


def test_a_revoked_key_is_listed_and_no_longer_found(database: Database) -> None:
    first, text = database.write(api_keys.create, "ada")
    second, _ = database.write(api_keys.create, "bob")
    revoked_at = database.write(api_keys.revoke, first.id).revoked_at
    assert database.write(api_keys.revoke, first.id).revoked_at == revoked_at
    assert database.read(api_keys.find, text) is None
    assert [key.id for key in database.read(api_keys.page)] == [first.id, second.id]
    with pytest.raises(errors.NotFound):
        database.write(api_keys.revoke, "none")


@pytest.mark.parametrize("owner", ["", " ", "a b", "x" * 129, "-a", "ü"])
def test_an_owner_has_a_plain_name(database: Database, owner: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        database.write(api_keys.create, owner)


def test_without_a_first_key_nothing_is_the_first_key() -> None:
    assert api_keys.is_first_key("secret", "secret")
    assert not api_keys.is_first_key("secre", "secret")
    assert not api_keys.is_first_key("", "")
    assert not api_keys.is_first_key("x", "")
