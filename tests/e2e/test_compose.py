"""The compose files name what there is: settings, commands, targets. No YAML parser is needed for that."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from imagekin.settings import Settings

ROOT = Path(__file__).parent.parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FILES = ["docker-compose.yml", "docker-compose.gpu.yml", "Dockerfile", "docs/how-to/compose.md"]
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


def _service(name: str) -> str:
    services = COMPOSE.split("\nservices:\n")[1].split("\nvolumes:\n")[0]
    return _block(services, rf"  {name}:\n", "    ")


def _template(name: str) -> str:
    return _block(COMPOSE, rf"x-{name}: &\w+\n", "  ")


def _block(text: str, head: str, indent: str) -> str:
    found = re.search(rf"^{head}((?:{indent}.*\n|\n)+)", text, re.MULTILINE)
    assert found, f"{head!r} is not in the file"
    return found[1]
