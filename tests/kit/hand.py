"""A hand that plays the worker, and the clients before it, with the functions that workers and the API use."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.orm import Session

from imagekin import catalog
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType, Lane, OnConflict, Precision
from imagekin.jobs import claim as claim_step
from imagekin.jobs import finish as finish_step
from imagekin.jobs import plan as plan_step
from imagekin.jobs import submit as submit_step
from imagekin.jobs import view
from imagekin.schemas import Job
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections, images, ledger, reading, reuse, segments, thumbnails
from imagekin.uploads import rows
from imagekin.uploads.files import Storage

DIM = 64


def picture(seed: int = 0, size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def vector(content: int | str, dim: int = DIM) -> np.ndarray:
    """Return the vector (dim,) float32 that an image of this content has."""
    seed = content if isinstance(content, int) else list(content.encode())
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def thumbnail(content: int | str) -> bytes:
    """Return the thumbnail of an image of this content: a picture of a number, and of a text its bytes."""
    return picture(content, kind="JPEG") if isinstance(content, int) else f"jpeg of {content}".encode()


def item(key: str, content: int | str, **metadata: Any) -> segments.Item:
    """Return what a worker makes of an image of this content, of a size that is not known and without a thumbnail."""
    content_hash = f"{content:064x}" if isinstance(content, int) else content.rjust(64, "0")
    return segments.Item(key, metadata or None, vector=vector(content), content_hash=content_hash)


def numbered(count: int) -> list[str]:
    """Return keys, in their order."""
    return [f"{number:03}" for number in range(count)]


def whole(key: str, content: int | str) -> segments.Item:
    """Return what a worker makes of an image of this content, with its size and thumbnail."""
    return replace(item(key, content), width=32, height=24, format="PNG", thumbnail=thumbnail(content))


@dataclass
class Hand:
    """Does by hand what one owner's clients and the workers do.

    `name` is the collection that is meant where no other is named, and `contents` what each key of a collection should
    hold: of what went through `images`, `embed`, `finish` and `delete`.
    """

    database: Database
    settings: Settings
    owner: str = "admin"
    name: str = "archive"
    contents: dict[str, dict[str, int | str]] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def of(self, owner: str) -> Hand:
        """Return the hand of another owner, in the same system."""
        return replace(self, owner=owner, contents={})

    @property
    def storage(self) -> Storage:
        return Storage(self.settings)

    def collection(self, name: str = "", dtype: str = DType.FLOAT32) -> tables.Collection:
        """Return the collection of that name, made where there is none."""
        name = name or self.name
        if name not in self.contents:
            space = catalog.resolve_space(catalog.FAKE_BACKBONE, None, Precision.EXACT, self.settings.weights_dir)
            self.database.write(collections.create, self.owner, name, space, DType(dtype))
            self.contents[name] = {}
        return self.database.read(collections.get, self.owner, name)

    def store(self, items: Sequence[segments.Item], name: str = "") -> list[str]:
        """Store what a worker would have made, without a job; return the images' ids."""

        def write(session: Session) -> list[str]:
            collection = collections.get(session, self.owner, name or self.name)
            stored = segments.store(session, collection.id, list(items), OnConflict.REPLACE)
            return [record.image_id or "" for record in stored]

        return self.database.write(write)

    def images(self, *keys: str, name: str = "") -> list[str]:
        """Store an image for each key, and return their ids; the contents are numbers from 0 on."""
        ids = self.store([whole(key, seed) for seed, key in enumerate(keys)], name)
        self.contents.setdefault(name or self.name, {}).update((key, seed) for seed, key in enumerate(keys))
        return ids

    def submission(self, name: str = "", kind: JobKind = JobKind.EMBED, **fields: Any) -> submit_step.Submission:
        """Return what a call would submit."""
        collection = self.collection(name)
        defaults = {
            "owner": self.owner,
            "kind": kind,
            "collection_id": collection.id,
            "space_id": collection.space_id,
            "params": {"on_conflict": "replace"},
        }
        return submit_step.Submission(**defaults | fields)

    def submit(self, name: str = "", kind: JobKind = JobKind.EMBED, **fields: Any) -> tables.Job:
        submission = self.submission(name, kind, **fields)
        return self.database.write(submit_step.submit, submission, self.settings)[0]

    def claims(self, lane: Lane = Lane.BULK, **preference: Any) -> list[claim_step.Claim]:
        """Claim what comes next, as a claimant that prefers this."""
        prefers = claim_step.Preference(**preference)
        claimed_by = f"ring-{next(self._numbers)}/x"
        return self.database.write(claim_step.claim, lane, claimed_by, self.settings, prefers)

    def claim(self, lane: Lane = Lane.BULK) -> claim_step.Claim:
        """Claim what comes next, which is a single chunk."""
        [claim] = self.claims(lane)
        return claim

    def plan(self, keys: Sequence[str], name: str = "", size: int = 64, **fields: Any) -> tables.Job:
        """Submit a job and plan it into chunks of `size` images."""
        job = self.submit(name, **fields)
        entries = [{"key": key, "ref": {}} for key in keys]
        pieces = [entries[at : at + size] for at in range(0, len(entries), size)]
        self.database.write(plan_step.add, self.claim(), pieces, ignored=1, cursor=None, finished=True)
        return job

    def made_of(
        self, claim: claim_step.Claim, contents: Mapping[str, int | str] | None = None, broken: Sequence[str] = ()
    ) -> list[segments.Item]:
        """Return what a worker makes of a claimed chunk: an image's content is its key, unless `contents` tells."""
        manifest = sa.select(tables.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq)
        told: Mapping[str, int | str] = contents or {}
        made: list[segments.Item] = []
        for entry in ledger.unpack(self.database.read(lambda session: session.scalar(manifest)) or b""):
            key: str = entry["key"]
            if "error" in entry or key in broken:
                code, detail = entry.get("error") or ("decode_error", "broken")
                made.append(segments.Item(key, error=(code, detail)))
            else:
                made.append(whole(key, told.get(key, key)))
        return made

    def finish(
        self, claim: claim_step.Claim, contents: Mapping[str, int | str] | None = None, broken: Sequence[str] = ()
    ) -> None:
        """Finish a claimed chunk, with what is known already where something is."""
        made = self.made_of(claim, contents, broken)
        asked = [(one.key, one.content_hash) for one in made]

        def known(session: Session) -> tuple[str, list[Any]]:
            collection = session.get_one(tables.Collection, claim.collection_id)
            return collection.name, reuse.known(session, collection, asked, OnConflict.REPLACE)

        name, answers = self.database.read(known)
        for one, answer in zip(made, answers, strict=True):
            if one.error is not None:
                continue
            if isinstance(answer, ledger.Record):
                one.vector, one.known = None, answer
            elif answer is not None:
                one.vector, one.thumbnail, one.reused = answer.vector, answer.thumbnail, True
        self._end(claim, made)
        held = self.contents.setdefault(name, {})
        held |= {one.key: (contents or {}).get(one.key, one.key) for one in made if one.error is None}

    def _end(self, claim: claim_step.Claim, items: list[segments.Item]) -> None:
        job = self.database.read(lambda session: session.get_one(tables.Job, claim.job_id))
        finish_step.chunk(self.database, claim, items, OnConflict(job.params["on_conflict"]))

    def embed(
        self,
        keys: Sequence[str],
        name: str = "",
        size: int = 64,
        contents: Mapping[str, int | str] | None = None,
        broken: Sequence[str] = (),
        **fields: Any,
    ) -> tables.Job:
        """Run an embed job from end to end."""
        job = self.plan(keys, name, size, **fields)
        for _ in range(0, len(keys), size):
            self.finish(self.claim(), contents, broken)
        return job

    def finish_embed(self, *items: segments.Item) -> None:
        """Plan what comes next as one chunk of these items, and finish it."""
        entries = [{"key": item.key, "ref": {}, "error": None, "metadata": None} for item in items]
        pieces = [entries] if entries else []
        self.database.write(plan_step.add, self.claim(), pieces, ignored=1, cursor=None, finished=True)
        if entries:
            self._end(self.claim(), list(items))

    def finish_search(self, summary: dict[str, Any], thumbnail: bytes | None = None) -> None:
        self.database.write(finish_step.result, self.claim(Lane.INTERACTIVE), summary, thumbnail=thumbnail)

    def finish_cluster(self, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        claim = self.claim()
        self.database.write(finish_step.finalize, claim, 1, [rows[:2], rows[2:]])
        self.database.write(finish_step.result, claim, summary)

    def search(self) -> tables.Job:
        """Run a search that finds nothing."""
        job = self.submit(kind=JobKind.SEARCH)
        self.finish_search({"neighbors": []})
        return job

    def upload(self, data: bytes = b"bytes") -> str:
        """Store an upload; return its id."""
        id = tables.new_id()
        stored = self.storage.write(rows.path(id), io.BytesIO(data), 1000)
        self.database.write(rows.add, self.owner, id, stored, "a.zip", self.settings)
        return id

    def delete(self, *keys: str, name: str = "") -> None:
        collection = self.collection(name)
        for key in keys:
            image = self.database.read(images.by_key, collection, key)
            self.database.write(images.delete, collection, image.id)
            del self.contents[collection.name][key]

    def view(self, job: tables.Job) -> Job:
        """Return a job as clients see it."""
        return self.database.read(lambda session: view.view(session, session.get_one(tables.Job, job.id)))

    def check(self, name: str = "") -> None:
        """Assert that each key has its vector and thumbnail, bit for bit, by both ways of reading."""
        collection = self.collection(name)
        read, found = self.database.read(_read, collection)
        expected = self.contents[collection.name]
        assert set(read) == set(found) == set(expected)
        for key, content in expected.items():
            assert read[key] == found[key][0] == vector(content).tobytes()
            assert found[key][1] == thumbnail(content)

    def sql(self, statement: str, **values: Any) -> int:
        """Change the database behind the service's back; return how many rows."""
        with self.database.engine.begin() as connection:
            return connection.execute(sa.text(statement), values).rowcount

    def count(self, table: type[tables.Base]) -> int:
        return self.database.read(lambda s: s.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _read(
    session: Session, collection: tables.Collection
) -> tuple[dict[str, bytes], dict[str, tuple[bytes, bytes | None]]]:
    read: dict[str, bytes] = {}
    revision, _ = reading.head(session, collection.id)
    for change in reading.changes(session, collection.id, 0, revision):
        keys = reading.keys(session, change.ids)
        read |= {keys[id]: row.tobytes() for id, row in zip(change.ids, change.vectors, strict=True)}
    live = session.scalars(sa.select(tables.Image).filter_by(collection_id=collection.id, deleted_at=None)).all()
    found = {image.key: (segments.vector(session, image).tobytes(), thumbnails.of(session, image)) for image in live}
    return read, found
