"""The compose files name what there is: settings, commands, targets."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import sqlalchemy as sa

from imagekin import errors
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from kit import s3
from kit.databases import PostgreSQL

ROOT = Path(__file__).parent.parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FILES = [
    "docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.scale.yml", "Dockerfile", "docs/how-to/compose.md",
    "docs/how-to/production.md",
]  # fmt: skip
SCALE = (ROOT / "docker-compose.scale.yml").read_text()
# The client's, not the service's.
OF_THE_CLIENT = {"IMAGEKIN_URL", "IMAGEKIN_API_KEY"}


@pytest.mark.parametrize("name", FILES)
def test_every_setting_that_is_named_exists(name: str) -> None:
    known = {f"IMAGEKIN_{field.upper()}" for field in Settings.model_fields} | OF_THE_CLIENT

    assert set(re.findall(r"\bIMAGEKIN_[A-Z_]+[A-Z]", (ROOT / name).read_text())) <= known


@pytest.mark.parametrize("secret", ["POSTGRES_PASSWORD", "IMAGEKIN_FIRST_KEY"])
def test_a_missing_secret_stops_compose_and_none_has_a_default(secret: str) -> None:
    uses = re.findall(rf"\$\{{{secret}[^}}]*\}}", COMPOSE)

    assert uses
    assert all(use.startswith(f"${{{secret}:?") for use in uses)


@pytest.mark.parametrize("service", ["api", "worker", "searcher", "redis", "postgres"])
def test_every_service_that_stays_has_a_health_check(service: str) -> None:
    body = _service(service)

    assert "healthcheck:" in body or "healthcheck:" in _template(re.findall(r"<<: \*(\w+)", body)[0])


def test_redis_keeps_what_it_has() -> None:
    arguments = re.findall(r"^ +- \"?([^\"\n]+?)\"?$", _service("redis"), re.MULTILINE)
    pairs = set(itertools.pairwise(arguments))

    assert {("--appendonly", "yes"), ("--maxmemory-policy", "noeviction")} <= pairs


@pytest.mark.parametrize("target", ["api", "worker"])
def test_every_image_of_ours_runs_without_root(target: str) -> None:
    stage = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    body = next(part for part in stage if re.match(rf"\w+ AS {target}\n", part))

    assert re.search(r"^USER imagekin$", body, re.MULTILINE)
    assert f"target: {target}\n" in COMPOSE


def test_the_ports_of_redis_and_the_database_stay_inside() -> None:
    assert "ports:" in _service("api")
    assert not [name for name in ("redis", "postgres", "worker", "searcher") if "ports:" in _service(name)]


def test_the_override_changes_services_that_are_there_and_gives_each_the_storage() -> None:
    base, scale = _read(COMPOSE), _read(SCALE)
    assert set(scale["services"]) - set(base["services"]) == {"s3", "bucket"}
    for name in ("api", "worker", "searcher", "bucket"):
        environment = scale["services"][name]["environment"]
        assert environment["IMAGEKIN_BLOB_URL"].startswith("s3://imagekin/")
        assert environment["AWS_SECRET_ACCESS_KEY"] == scale["services"]["s3"]["environment"]["ROOT_SECRET_KEY"]
    assert all(use.startswith("${S3_SECRET_KEY:?") for use in re.findall(r"\$\{S3_SECRET_KEY[^}]*\}", SCALE))
    assert "ports" not in scale["services"]["s3"] and "healthcheck" in scale["services"]["s3"]
    # each volume that a service mounts is declared
    mounted = {one.partition(":")[0] for service in scale["services"].values() for one in service.get("volumes", [])}
    assert mounted == set(scale["volumes"])
    # the two versions' files never meet: mounts are merged by where they are mounted
    [old], [new] = (each["services"]["postgres"]["volumes"] for each in (base, scale))
    assert old.partition(":")[2] == new.partition(":")[2] and old != new


def test_settings_of_the_override_are_postgresqls_and_the_guides(postgresql: PostgreSQL) -> None:
    command = _read(SCALE)["services"]["postgres"]["command"]
    assert (command[0], set(command[1::2])) == ("postgres", {"-c"})
    given = dict(one.split("=", 1) for one in command[2::2])
    engine = sa.create_engine(postgresql.address, poolclass=sa.NullPool)
    with engine.connect() as connection:
        known = set(connection.scalars(sa.text("SELECT name FROM pg_settings")))
    assert set(given) <= known
    guide = (ROOT / "docs/how-to/production.md").read_text()
    assert [name for name in given if f"`{name}`" not in guide] == []


def test_the_buckets_program_makes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    [program] = _read(SCALE)["services"]["bucket"]["command"]
    with s3.server() as address:
        s3.lead_to(address, monkeypatch)
        storage = Blobs(_read(SCALE)["x-blobs"]["environment"]["IMAGEKIN_BLOB_URL"])
        with pytest.raises(errors.Unavailable, match="make the bucket"):
            storage.try_out()
        for _ in range(2):
            subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        storage.try_out()
        assert fsspec.filesystem("s3").find("imagekin") == []


def _read(text: str) -> Any:
    return pytest.importorskip("yaml", reason="PyYAML reads the compose files").safe_load(text)


def _service(name: str) -> str:
    services = COMPOSE.split("\nservices:\n")[1].split("\nvolumes:\n")[0]
    return _block(services, rf"  {name}:\n", "    ")


def _template(name: str) -> str:
    return _block(COMPOSE, rf"x-{name}: &\w+\n", "  ")


def _block(text: str, head: str, indent: str) -> str:
    found = re.search(rf"^{head}((?:{indent}.*\n|\n)+)", text, re.MULTILINE)
    assert found, f"{head!r} is not in the file"
    return found[1]
