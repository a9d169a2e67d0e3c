"""Images of many small jobs share batches: what was submitted together is embedded together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus, Lane
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.telemetry.metrics import WORK
from imagekin_worker.context.process_state import Node
from imagekin_worker.process import dispatch
from kit.hand import Hand

JOBS = 24


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    chance = np.random.default_rng(5)
    for number in range(JOBS):
        Image.fromarray(chance.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def node(settings: Settings, database: Database, pictures: Path) -> Iterator[Node]:
    node = Node(settings.model_copy(update={"source_roots": (str(pictures),), "lanes": 2}), Lane.BULK)
    yield node
    node.close()


@pytest.fixture
def submit(node: Node, pictures: Path) -> Callable[[int, str], tables.Job]:
    hand = Hand(node.database, node.settings)

    def submit(number: int, owner: str) -> tables.Job:
        source = {"type": "folder", "path": str(pictures / f"{number}.png")}
        return hand.of(owner).submit(f"photos-{number}", work={"source": source})

    return submit


def run(node: Node) -> list[str]:
    """Work until nothing is left; return the kind of each claim."""
    kinds: list[str] = []
    while claims := node.claim(f"ring-{len(kinds)}/x"):
        kinds.append(claims[0].kind)
        with node.lease(claims) as lease:
            dispatch.do(node, claims, lease)
    return kinds


def batches() -> tuple[float, float]:
    """Return how many batches there were in this process, and how full they were together."""
    samples = {sample.name: sample.value for sample in next(iter(WORK.batch_fill.collect())).samples}
    return samples["imagekin_batch_fill_ratio_count"], samples["imagekin_batch_fill_ratio_sum"]


@pytest.mark.parametrize("owners", [1, 3])
def test_images_of_many_small_jobs_share_batches(
    owners: int, node: Node, submit: Callable[[int, str], tables.Job]
) -> None:
    submitted = [submit(number, f"owner-{number % owners}") for number in range(JOBS)]
    count, fill = batches()
    kinds = run(node)
    count, fill = batches()[0] - count, batches()[1] - fill
    for job in submitted:
        ended = node.database.read(lambda session, id=job.id: session.get_one(tables.Job, id))
        assert (ended.status, ended.embedded) == (JobStatus.SUCCEEDED, 1)
    assert kinds.count(JobKind.EMBED) <= 3
    # alone each would fill a quarter; what is read in time for a batch is the machine's, and it is busy
    assert fill / count >= 0.5
