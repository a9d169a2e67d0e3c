"""What the production process logs, and what it never does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imagekin import api_keys
from imagekin.database.engine import Database
from imagekin.settings import Settings
from kit.production import produced
from kit.receiving import SECRET
from kit.wire import ADMIN_KEY

TOKEN = "token-of-the-receiver"
PREVIOUS = f"whsec_{'Prev' * 8}"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_gets_into_the_log(
    make_settings: Callable[..., Settings], capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    settings = make_settings()
    database = Database(settings.database)
    _, key = database.write(api_keys.create, "ada")
    revoked, old_key = database.write(api_keys.create, "bob")
    database.write(api_keys.revoke, revoked.id)
    secrets = [ADMIN_KEY, key, old_key, SECRET, SECRET.removeprefix("whsec_"), PREVIOUS, TOKEN]
    body = {"collection": "archive", "query": {"image_id": "a"}, "callback_url": f"https://example.org/?{TOKEN}"}
    changes = {
        "WEBHOOK_SECRET": SECRET,
        "WEBHOOK_PREVIOUS_SECRET": PREVIOUS,
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": log_format,
    }
    with produced(settings, **changes) as api:
        client = api.client
        for headers in [
            {"Authorization": f"Bearer {each}"} for each in (ADMIN_KEY, key, old_key)
        ] + [{"Authorization": f"Basic {key}"}, {"Authorization": key}, {"X-Api-Key": key}]:  # fmt: skip
            client.get("/v1/jobs", headers=headers)
            client.get("/v1/jobs", headers=headers, params={"api_key": key, "limit": ADMIN_KEY})
            client.get(f"/v1/jobs/{key}", headers=headers)
            client.post("/v1/collections", json={"name": "archive", "backbone": "fake", "key": key}, headers=headers)
            client.post("/v1/collections", json={"name": "archive", "backbone": "fake"}, headers=headers)
            client.post("/v1/jobs/search", json=body, headers=headers)
            client.post("/v1/jobs/search", json={**body, "query": {"embedding": [1.0] * 64}}, headers=headers)
        signed_in = client.post("/session", json={"key": key})
        page = {"Authorization": "", "X-Page-Token": signed_in.json()["token"]}
        secrets += [page["X-Page-Token"], client.cookies["imagekin"]]
        client.get("/v1/jobs", headers=page)
        client.post("/v1/collections", json={"name": "archive"}, headers=page)
        client.post("/session", json={"key": old_key, "kay": key})
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE jobs RENAME TO elsewhere")
        # a failure with a traceback
        broken = {**body, "query": {"embedding": [1.0] * 64}}
        assert client.post("/v1/jobs/search", json=broken).status_code == 503
        assert client.post("/v1/jobs/search", json=broken, headers=page).status_code == 503
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO nowhere")
        assert client.get("/v1/jobs", headers=page).status_code == 503
        assert client.post("/session", json={"key": key}).status_code == 503
        assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 503
    database.dispose()
    log = "".join(capfd.readouterr())
    assert "Traceback" in log
    assert "/v1/jobs/search" in log
    assert [secret for secret in secrets if secret in log] == []
