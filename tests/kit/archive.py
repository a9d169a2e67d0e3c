"""An archive that tests fill as clients and workers would: through jobs, claims and finished chunks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import sqlalchemy as sa

from imagekin import catalog
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType, Lane, OnConflict, Precision
from imagekin.jobs import claim as claim_step
from imagekin.jobs import finish as finish_step
from imagekin.jobs import plan as plan_step
from imagekin.jobs import submit
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections, images, ledger, reading, reuse, segments, thumbnails
from imagekin.uploads import rows
from imagekin.uploads.files import Storage


def vector(content: str, dim: int = 64) -> np.ndarray:
    """Return the vector (dim,) that an image of this content has."""
    return np.random.default_rng(list(content.encode())).standard_normal(dim).astype(np.float32)


def thumbnail(content: str) -> bytes:
    return f"jpeg of {content}".encode()


def item(key: str, content: str) -> segments.Item:
    return segments.Item(
        key, vector=vector(content), content_hash=content.rjust(64, "0"), thumbnail=thumbnail(content), format="PNG"
    )


@dataclass
class Archive:
    """What one owner has; `contents` is what each key of a collection should hold."""

    database: Database
    settings: Settings
    owner: str = "ann"
    contents: dict[str, dict[str, str]] = field(default_factory=dict)
    _numbers: count = field(default_factory=count)

    @property
    def storage(self) -> Storage:
        return Storage(self.settings)

    def collection(self, name: str = "photos", dtype: DType = DType.FLOAT32) -> tables.Collection:
        """Return the collection of that name, made where there is none."""
        if name not in self.contents:
            space = catalog.resolve_space("fake", None, Precision.EXACT, self.settings.weights_dir)
            self.database.write(collections.create, self.owner, name, space, dtype)
            self.contents[name] = {}
        return self.database.read(collections.get, self.owner, name)

    def submit(self, name: str = "photos", kind: JobKind = JobKind.EMBED, **fields) -> tables.Job:
        collection = self.collection(name)
        submission = submit.Submission(
            owner=self.owner,
            kind=kind,
            collection_id=collection.id,
            space_id=collection.space_id,
            params={"on_conflict": "replace"},
            **fields,
        )
        return self.database.write(submit.submit, submission, self.settings)[0]

    def claim(self, lane: Lane = Lane.BULK) -> claim_step.Claim:
        [claim] = self.database.write(claim_step.claim, lane, f"ring-{next(self._numbers)}/x", self.settings)
        return claim

    def plan(self, keys: Sequence[str], name: str = "photos", size: int = 64, **fields) -> tables.Job:
        """Submit a job and plan it into chunks of `size` images."""
        job = self.submit(name, **fields)
        entries = [{"key": key, "ref": {}} for key in keys]
        pieces = [entries[at : at + size] for at in range(0, len(entries), size)]
        self.database.write(plan_step.add, self.claim(), pieces, ignored=1, cursor=None, finished=True)
        return job

    def finish(self, claim: claim_step.Claim, name: str, contents: dict[str, str], broken: Sequence[str] = ()) -> None:
        """Finish a claimed chunk: an image's content is its key, unless `contents` says otherwise."""

        def known(session, made):
            return reuse.known(
                session, self.collection(name), [(one.key, one.content_hash) for one in made], OnConflict.REPLACE
            )

        manifest = self.database.read(
            lambda s: s.scalar(sa.select(tables.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq))
        )
        entries = ledger.unpack(manifest or b"")
        made = [item(entry["key"], contents.get(entry["key"]) or entry["key"]) for entry in entries]
        for one, entry, answer in zip(made, entries, self.database.read(known, made), strict=True):
            if "error" in entry or one.key in broken:
                one.vector, one.error = None, tuple(entry.get("error", ("decode_error", "broken")))
            elif isinstance(answer, ledger.Record):
                one.vector, one.known = None, answer
            elif answer is not None:
                one.vector, one.thumbnail, one.reused = answer.vector, answer.thumbnail, True
        self.database.write(finish_step.images, claim, made)
        self.contents[name] |= {one.key: contents.get(one.key, one.key) for one in made if one.error is None}

    def embed(
        self,
        keys: Sequence[str],
        name: str = "photos",
        size: int = 64,
        contents: dict[str, str] | None = None,
        broken: Sequence[str] = (),
        **fields,
    ) -> tables.Job:
        """Run an embed job from end to end."""
        job = self.plan(keys, name, size, **fields)
        for _ in range(0, len(keys), size):
            self.finish(self.claim(), name, contents or {}, broken)
        return job

    def upload(self, data: bytes = b"bytes") -> str:
        id = tables.new_id()
        stored = self.storage.write(rows.path(id), io.BytesIO(data), 1000)
        self.database.write(rows.add, self.owner, id, stored, "a.zip", self.settings)
        return id

    def search(self) -> tables.Job:
        job = self.submit(kind=JobKind.SEARCH)
        self.database.write(finish_step.result, self.claim(Lane.INTERACTIVE), {"neighbors": []})
        return job

    def delete(self, *keys: str, name: str = "photos") -> None:
        collection = self.collection(name)
        for key in keys:
            found = self.database.read(images.by_key, collection, key)
            self.database.write(images.delete, collection, found.id)
            del self.contents[name][key]

    def check(self, name: str = "photos") -> None:
        """Assert that each key has its vector and thumbnail, bit for bit, by both ways of reading."""
        collection = self.collection(name)
        whole, single = self.database.read(_read, collection)
        expected = self.contents[name]
        assert set(whole) == set(single) == set(expected)
        for key, content in expected.items():
            assert whole[key] == single[key][0] == vector(content).tobytes()
            assert single[key][1] == thumbnail(content)

    def sql(self, statement: str, **values) -> int:
        """Change the database behind the service's back; return how many rows."""
        with self.database.engine.begin() as connection:
            return connection.execute(sa.text(statement), values).rowcount

    def count(self, table: type[tables.Base]) -> int:
        return self.database.read(lambda s: s.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _read(session, collection):
    whole = {}
    revision, _ = reading.head(session, collection.id)
    for change in reading.changes(session, collection.id, 0, revision):
        keys = reading.keys(session, change.ids)
        whole |= {keys[id]: row.tobytes() for id, row in zip(change.ids, change.vectors, strict=True)}
    live = session.scalars(sa.select(tables.Image).filter_by(collection_id=collection.id, deleted_at=None)).all()
    single = {image.key: (segments.vector(session, image).tobytes(), thumbnails.of(session, image)) for image in live}
    return whole, single
