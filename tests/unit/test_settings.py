"""Settings: read once from the environment, documented all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from imagekin.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `IMAGEKIN_(\w+)` \| (.*?) \| (.*?) \|$", DOCS.read_text(), re.M)
    assert [(name.lower(), description) for name, _, description in rows] == [
        (name, field.description) for name, field in Settings.model_fields.items()
    ]
    assert [default for _, default, _ in rows] == [shown(field.default) for field in Settings.model_fields.values()]


def shown(default: object) -> str:
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return f"`{text}`" if text else "(empty)"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_SOURCE_ROOTS", "/a, /b,")
    monkeypatch.setenv("IMAGEKIN_WARM", "")
    settings = Settings()
    assert settings.source_roots == ("/a", "/b")
    assert settings.warm == ()


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_PORT", "eighty")
    with pytest.raises(ValidationError, match="port"):
        Settings()


SECRETS = {
    "FIRST_KEY": "ik_secret",
    "WEBHOOK_SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
    "WEBHOOK_PREVIOUS_SECRET": "whsec_cHJldmlvdXNwcmV2aW91c3ByZXZpb3Vz",
    "DATABASE_URL": "postgresql://user:secret@host/db",
    "REDIS_URL": "redis://:secret@host",
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"IMAGEKIN_{name}", SECRETS[name])
    assert getattr(Settings(), name.lower()) == SECRETS[name]
    assert SECRETS[name] not in repr(Settings()) + str(Settings())


@pytest.mark.parametrize(
    "secret", ["c2VjcmV0", "whsec_", "whsec_c2VjcmV0", "whsec_" + "-" * 40, "x" + SECRETS["WEBHOOK_SECRET"]]
)
@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_PREVIOUS_SECRET"])
def test_a_weak_webhook_secret_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, secret: str
) -> None:
    monkeypatch.setenv(f"IMAGEKIN_{name}", secret)
    with pytest.raises(ValidationError, match="openssl rand") as caught:
        Settings()
    assert secret not in str(caught.value).replace("whsec_ and", "").replace("whsec_$", "")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
