"""Jobs that are submitted, planned and claimed as clients and workers do it."""

from __future__ import annotations

import pytest

from imagekin import catalog
from imagekin.enums import DType, Lane, Precision
from imagekin.jobs import claim as claim_step
from imagekin.jobs import plan as plan_step
from imagekin.jobs import submit as submit_step
from imagekin.schemas.kinds import PLAN, JobKind
from imagekin.store import collections


@pytest.fixture
def space(database, settings):
    return catalog.resolve_space("fake", None, Precision.EXACT, settings.weights_dir)


@pytest.fixture
def collection(database, space):
    database.write(collections.create, "ann", "photos", space, DType.FLOAT32)
    return database.read(collections.get, "ann", "photos")


@pytest.fixture
def submit(database, settings, collection):
    def submit(kind=JobKind.EMBED, owner="ann", **fields):
        params = {"on_conflict": "replace"} | fields.pop("params", {})
        submission = submit_step.Submission(
            owner=owner,
            kind=kind,
            params=params,
            **({"collection_id": collection.id, "space_id": collection.space_id} | fields),
        )
        return database.write(submit_step.submit, submission, settings)[0]

    return submit


@pytest.fixture
def claim(database, settings):
    counter = iter(range(1000))

    def claim(lane=Lane.BULK, **options):
        return database.write(
            claim_step.claim, lane, f"ring-{next(counter)}/x", settings, claim_step.Preference(**options)
        )

    return claim


@pytest.fixture
def planned(database, submit, claim):
    """A job planned into chunks of `size` images, whose keys are numbers."""

    def planned(images=8, size=4, owner="ann", keys=None):
        job = submit(owner=owner)
        (plan,) = claim()
        assert plan.job_id == job.id and plan.kind == PLAN
        entries = [{"key": key, "ref": {}} for key in (keys or [f"{number:03}" for number in range(images)])]
        pieces = [entries[at : at + size] for at in range(0, len(entries), size)]
        database.write(plan_step.add, plan, pieces, ignored=2, cursor=len(entries), finished=True)
        return job

    return planned
