"""One cluster for many faults: starting processes takes longer than breaking them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster
from kit.databases import migrated


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.faults)])
def fault_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated database for the session's cluster: SQLite, and with `make faults` also PostgreSQL."""
    with migrated(request, request.param, tmp_path_factory.mktemp("faults")) as url:
        yield url


@pytest.fixture(scope="session")
def shared_cluster(fault_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    # there with blobs outside, too
    blob_url = "" if fault_database.startswith("sqlite") else str(folder / "blobs")
    with Cluster(folder, fault_database, blob_url=blob_url) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The running cluster, whole before each test; after it everything accepted has ended, exactly once."""
    shared_cluster.heal()
    yield shared_cluster
    shared_cluster.heal()
    shared_cluster.finish()
    shared_cluster.check()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for the test's collection and its pictures, so that no test meets another's content."""
    return request.node.originalname.removeprefix("test_").replace("_", "-")[:60]
