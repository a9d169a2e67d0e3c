"""The numbers' names and meanings, as code and documentation have them; what counts only once it is committed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql
from imagekin.database.engine import Database
from imagekin.enums import Lane
from imagekin.telemetry import metrics

DOCS = Path(__file__).parents[3] / "docs" / "how-to" / "monitor.md"
UNITS = ("_seconds", "_bytes", "_ratio")


def defined() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return type, labels and meaning of every metric that is ours, by its name as Prometheus has it."""
    groups = (metrics.Requests(), metrics.Snapshot(), metrics.JOBS, metrics.WORK, metrics.Processes(Lane.BULK, "1"))
    found: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for group in groups:
        collectors: Any = group.registry._collector_to_names
        for metric in collectors:
            if not isinstance(metric, prometheus.ProcessCollector):
                [family] = metric.describe()
                name = family.name + ("_total" if family.type == "counter" else "")
                assert name not in found
                found[name] = (family.type, metric._labelnames, family.documentation)
    return found


def test_the_tables_in_the_docs_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(imagekin_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", DOCS.read_text(), re.M)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows}
    assert documented == defined()


def test_every_number_in_the_docs_exists() -> None:
    known = {
        name + suffix for name, (kind, _, _) in defined().items() for suffix in SUFFIXES.get(kind, ("",))
    } | defined().keys()
    named = set(re.findall(r"\bimagekin_[a-z_]+\b", DOCS.read_text())) - {"imagekin_worker", "imagekin_key"}
    assert named - known == set()


SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


@pytest.mark.parametrize("name", defined())
def test_names_are_prometheus_own_kind(name: str) -> None:
    kind, _, meaning = defined()[name]
    assert (kind == "counter") == name.endswith("_total")
    assert not any(word in name for word in ("_ms", "_mb", "_percent"))
    assert meaning.endswith(".")
    if kind == "histogram" and not name.endswith(UNITS):
        assert name in {"imagekin_claim_chunks", "imagekin_claim_images", "imagekin_product_searches"}


@pytest.mark.parametrize("engine", ["sqlite"])
def test_a_note_is_made_once_its_transaction_is_committed(database: Database) -> None:
    made: list[str] = []

    def work(session: Session, name: str, fail: bool) -> None:
        sql.after_commit(session, lambda: made.append(name))
        session.execute(sa.text("SELECT 1"))
        assert made == []
        if fail:
            raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError, match="rolled back"):
        database.write(work, "first", True)
    database.write(work, "second", False)
    assert made == ["second"]
