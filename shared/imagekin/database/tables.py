"""The SQL tables. Times are the database's clock, in seconds since 1970.

Long because it is a list: one class for each table, and beside it what statements are made of once.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import uuid_utils
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column

from imagekin.database.sql import clock

ID_LENGTH = 32
KEY_LENGTH = 1024

_OPEN, _CLAIMED, _PENDING = "status IN ('ready', 'claimed')", "status = 'claimed'", "status = 'pending'"
# Written out, not bound: only so does SQLite see that a partial index covers a query.
OPEN_CHUNK, CLAIMED_CHUNK = sa.text(f"chunks.{_OPEN}"), sa.text(f"chunks.{_CLAIMED}")
PENDING_DELIVERY = sa.text(f"deliveries.{_PENDING}")


def new_id() -> str:
    """Return a new id: 32 hex digits that sort by time (UUID version 7)."""
    return uuid_utils.uuid7().hex


class Base(DeclarativeBase):
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy types it so
        str: sa.String(),
        float: sa.Double(),
        bytes: sa.LargeBinary(),
        dict[str, Any]: sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
        list[dict[str, Any]]: sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
    }


def _id() -> Mapped[str]:
    return mapped_column(sa.String(ID_LENGTH), primary_key=True, default=new_id)


def _time() -> Mapped[float]:
    return mapped_column(sa.Double(), default=clock())


class Space(Base):
    """Backbone, weights, layer and preprocess: vectors of different spaces never meet. The id is the fingerprint."""

    __tablename__ = "spaces"

    id: Mapped[str] = mapped_column(sa.String(ID_LENGTH), primary_key=True)
    backbone: Mapped[str]
    weights: Mapped[str]
    dim: Mapped[int]
    precision: Mapped[str] = mapped_column(sa.String(16))
    description: Mapped[dict[str, Any]]
    # of an adapted space: what follows the network, as the worker's `Projection` saves it
    projection: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))
    created_at: Mapped[float] = _time()


class Collection(Base):
    """Images in one space. `revision` rises in every transaction that changes what a search would see."""

    __tablename__ = "collections"

    id: Mapped[str] = _id()
    owner: Mapped[str]
    name: Mapped[str]
    space_id: Mapped[str] = mapped_column(sa.ForeignKey("spaces.id"))
    dtype: Mapped[str] = mapped_column(sa.String(16))
    revision: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    image_count: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    # up to here deleted images are forgotten: a resident matrix that stands before it cannot catch up
    pruned_revision: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    created_at: Mapped[float] = _time()
    # a tombstone: the name is free again, the sweep deletes the rest in slices
    deleted_at: Mapped[float | None] = mapped_column(sa.Double())

    __table_args__ = (
        sa.Index(
            "uq_collections_owner_name",
            "owner",
            "name",
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
        sa.Index("ix_collections_owner_space", "owner", "space_id", "dtype"),
    )


class CollectionView(Base):
    """The calibrated view that a collection is searched in, as a worker saved it: some 4 bytes a dimension."""

    __tablename__ = "collection_views"

    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True)
    data: Mapped[bytes]
    created_at: Mapped[float] = _time()


class VectorIndex(Base):
    """An index of a collection's vectors in PostgreSQL, whose rows are a table of its own: see imagekin.store.indexes.

    The id is that of the job that makes it. It has all images as of `revision`, with the vectors that they had then.
    """

    __tablename__ = "vector_indexes"

    id: Mapped[str] = mapped_column(sa.String(ID_LENGTH), primary_key=True)
    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(sa.String(16))
    dim: Mapped[int]
    revision: Mapped[int] = mapped_column(sa.BigInteger())
    # how many it had when it was built
    images: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    # what its vectors are in, and what the collection's view is made of, as a worker saved them
    view: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary(), nullable=False))
    sums: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary(), nullable=False))
    created_at: Mapped[float] = _time()
    # when it became what `status` says, unless that is building
    ready_at: Mapped[float | None] = mapped_column(sa.Double())


class Segment(Base):
    """N vectors of one collection, one after another in one immutable blob, as one chunk produced them."""

    __tablename__ = "segments"

    id: Mapped[str] = _id()
    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id"))
    count: Mapped[int]
    dim: Mapped[int]
    dtype: Mapped[str] = mapped_column(sa.String(16))
    checksum: Mapped[int] = mapped_column(sa.BigInteger())
    created_at: Mapped[float] = _time()
    data: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary()))
    # the id of the blob in the storage; null: it is `data`
    blob: Mapped[str | None] = mapped_column(sa.String(ID_LENGTH))

    # in the order in which they are read: a database would sort them with their blobs
    __table_args__ = (
        sa.Index("ix_segments_collection_id", "collection_id", "id"),
        # of what lies in the storage the doctor asks which segment has it
        sa.Index(
            "ix_segments_blob",
            "blob",
            sqlite_where=sa.text("blob IS NOT NULL"),
            postgresql_where=sa.text("blob IS NOT NULL"),
        ),
    )


class Thumbnails(Base):
    """The JPEG thumbnails of a segment's images, one after another; `offsets` has count + 1 little-endian uint32."""

    __tablename__ = "thumbnails"

    segment_id: Mapped[str] = mapped_column(sa.ForeignKey("segments.id"), primary_key=True)
    offsets: Mapped[bytes]
    # of `data`; null for those from before it was kept
    checksum: Mapped[int | None] = mapped_column(sa.BigInteger())
    data: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary()))
    # as of the segment, whose blob has the same id; null also where there is no thumbnail
    blob: Mapped[str | None] = mapped_column(sa.String(ID_LENGTH))


class LooseBlob(Base):
    """An id under which blobs may lie in the storage without a row that names it: see imagekin.store.blobs."""

    __tablename__ = "loose_blobs"

    id: Mapped[str] = mapped_column(sa.String(ID_LENGTH), primary_key=True)
    since: Mapped[float] = mapped_column(sa.Double(), default=clock(), index=True)
    # no row may name them any more
    removing: Mapped[bool] = mapped_column(default=False)


class Signs(Base):
    """The perceptual hashes of a segment's thumbnails, once they were taken: see imagekin.store.signs."""

    __tablename__ = "signs"

    segment_id: Mapped[str] = mapped_column(sa.ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    data: Mapped[bytes]


class Image(Base):
    """An image of a collection: the client's key, and where its vector stands."""

    __tablename__ = "images"

    id: Mapped[str] = _id()
    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id"))
    # by code points on both databases: so the index answers for keys that begin alike
    key: Mapped[str] = mapped_column(
        sa.String(KEY_LENGTH).with_variant(sa.String(KEY_LENGTH, collation="C"), "postgresql")
    )
    content_hash: Mapped[str] = mapped_column(sa.String(64))
    width: Mapped[int | None]
    height: Mapped[int | None]
    format: Mapped[str | None] = mapped_column(sa.String(16))
    # of the file; null for imported vectors, and for images from before it was kept
    nbytes: Mapped[int | None] = mapped_column(sa.BigInteger())
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    segment_id: Mapped[str] = mapped_column(sa.ForeignKey("segments.id"))
    row: Mapped[int]
    # the collection's revision that brought or replaced the vector, or deleted the image: what a resident matrix
    # catches up by. Metadata raise the collection's alone: no vector is read again, no job starts over its rows
    revision: Mapped[int] = mapped_column(sa.BigInteger())
    created_at: Mapped[float] = _time()
    deleted_at: Mapped[float | None] = mapped_column(sa.Double())

    __table_args__ = (
        sa.Index(
            "uq_images_collection_key",
            "collection_id",
            "key",
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
        # the pages of a list, in the order in which images came
        sa.Index(
            "ix_images_collection_id",
            "collection_id",
            "id",
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
        sa.Index("ix_images_collection_revision", "collection_id", "revision"),
        # all that a matrix wants to know of the images of a segment, so that it is read without their rows
        sa.Index("ix_images_segment_id", "segment_id", "deleted_at", "row", "revision", "id"),
        sa.Index("ix_images_content_hash", "content_hash"),
        sa.Index(
            "ix_images_deleted",
            "collection_id",
            "deleted_at",
            sqlite_where=sa.text("deleted_at IS NOT NULL"),
            postgresql_where=sa.text("deleted_at IS NOT NULL"),
        ),
    )


class Verdict(Base):
    """A person's verdict on two contents, the smaller hash first: that images of them are the same, or not."""

    __tablename__ = "verdicts"

    owner: Mapped[str] = mapped_column(primary_key=True)
    first: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    second: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    same: Mapped[bool]
    created_at: Mapped[float] = _time()


class Job(Base):
    """What a client asked for. Its state changes in imagekin.jobs and nowhere else."""

    __tablename__ = "jobs"

    id: Mapped[str] = _id()
    owner: Mapped[str]
    kind: Mapped[str] = mapped_column(sa.String(16))
    status: Mapped[str] = mapped_column(sa.String(16))
    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id"), index=True)
    params: Mapped[dict[str, Any]]
    # what a worker needs and a client doesn't see: the source, the query's vector or upload
    work: Mapped[dict[str, Any]] = mapped_column(default=dict)
    upload_id: Mapped[str | None] = mapped_column(sa.String(ID_LENGTH), index=True)
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(255))
    idempotency_digest: Mapped[str | None] = mapped_column(sa.String(64))
    parent_id: Mapped[str | None] = mapped_column(sa.String(ID_LENGTH))
    planned: Mapped[bool] = mapped_column(default=False)
    total: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    embedded: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    reused: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    skipped: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    failed: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    cancelled: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    ignored: Mapped[int] = mapped_column(sa.BigInteger(), default=0)
    # how far a job without images of its own is, such as a clustering: 0 to 1
    fraction: Mapped[float | None] = mapped_column(sa.Double())
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None]
    callback_url: Mapped[str | None]
    created_at: Mapped[float] = _time()
    started_at: Mapped[float | None] = mapped_column(sa.Double())
    finished_at: Mapped[float | None] = mapped_column(sa.Double())
    # how long ledger and result live once the job has ended; null: until the job is deleted
    lifetime_s: Mapped[float | None] = mapped_column(sa.Double())
    expires_at: Mapped[float | None] = mapped_column(sa.Double(), index=True)

    __table_args__ = (
        sa.Index("uq_jobs_owner_idempotency_key", "owner", "idempotency_key", unique=True),
        sa.Index("ix_jobs_owner_id", "owner", "id"),
        sa.Index("ix_jobs_status_id", "status", "id"),
    )


class Chunk(Base):
    """A piece of a job's work, and the queue of record: one row is claimed, renewed and finished by one worker.

    Every kind of work is a chunk: planning, a few dozen images, one search, one clustering. `seq` is the place of
    the chunk's first image in its job, so that a chunk that is split keeps the order; -1 is the planning.
    """

    __tablename__ = "chunks"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(sa.BigInteger(), primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(16))
    lane: Mapped[str] = mapped_column(sa.String(16))
    owner: Mapped[str]
    collection_id: Mapped[str] = mapped_column(sa.String(ID_LENGTH))
    space_id: Mapped[str] = mapped_column(sa.String(ID_LENGTH))
    status: Mapped[str] = mapped_column(sa.String(16))
    size: Mapped[int] = mapped_column(default=0)
    # how often it was claimed: who finishes must name the attempt, which fences off whoever had it before
    attempt: Mapped[int] = mapped_column(default=0)
    # how often a process died with it under a living parent
    deaths: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[str | None] = mapped_column(sa.String(255), index=True)
    lease_until: Mapped[float | None] = mapped_column(sa.Double())
    embedded: Mapped[int] = mapped_column(default=0)
    reused: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    # compressed JSON: the entries to work on, what became of each, and how far a long chunk is
    manifest: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))
    ledger: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))
    state: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))

    __table_args__ = (
        sa.Index(
            "ix_chunks_open",
            "lane",
            "owner",
            "job_id",
            "seq",
            sqlite_where=sa.text(_OPEN),
            postgresql_where=sa.text(_OPEN),
        ),
        # work for one network, among what may be a million ready chunks for others
        sa.Index(
            "ix_chunks_open_space",
            "space_id",
            "lane",
            "job_id",
            "seq",
            sqlite_where=sa.text(_OPEN),
            postgresql_where=sa.text(_OPEN),
        ),
        # few at any time, and looked for often, among what may be a million ready ones
        sa.Index(
            "ix_chunks_claimed",
            "lease_until",
            "lane",
            sqlite_where=sa.text(_CLAIMED),
            postgresql_where=sa.text(_CLAIMED),
        ),
    )


class PlannedKey(Base):
    """The keys a job has planned so far, as digests: finds the same key twice in one job in bounded memory."""

    __tablename__ = "planned_keys"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(sa.LargeBinary(16), primary_key=True)


class ResultPart(Base):
    """A job's result: part 0 is its summary, the others are slices of its rows, each compressed JSON."""

    __tablename__ = "results"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(default=0)
    data: Mapped[bytes]
    # of a searched picture that is stored nowhere else
    thumbnail: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))


class Clustering(Base):
    """A finished clustering's centers, so that later images can be assigned to them."""

    __tablename__ = "clusterings"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    owner: Mapped[str]
    collection_id: Mapped[str] = mapped_column(sa.ForeignKey("collections.id"), index=True)
    metric: Mapped[str] = mapped_column(sa.String(16))
    n_clusters: Mapped[int]
    dim: Mapped[int]
    revision: Mapped[int] = mapped_column(sa.BigInteger())
    centers: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary()))
    # in which they lie, as a worker saved it; of a clustering without one they are among the vectors as they are
    view: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary()))
    created_at: Mapped[float] = _time()


class Upload(Base):
    """Bytes that a client sent; `path` names them in the storage."""

    __tablename__ = "uploads"

    id: Mapped[str] = _id()
    owner: Mapped[str]
    path: Mapped[str]
    filename: Mapped[str | None]
    sha256: Mapped[str] = mapped_column(sa.String(64))
    # as it was sent; a tar.gz is stored decompressed
    size: Mapped[int] = mapped_column(sa.BigInteger())
    stored_bytes: Mapped[int] = mapped_column(sa.BigInteger())
    created_at: Mapped[float] = _time()
    expires_at: Mapped[float] = mapped_column(sa.Double(), index=True)

    __table_args__ = (sa.Index("ix_uploads_owner", "owner"),)


class ApiKey(Base):
    """A key that lets an owner in, as the SHA-256 of its text: keys are random, so a slow hash would add nothing."""

    __tablename__ = "api_keys"

    id: Mapped[str] = _id()
    owner: Mapped[str]
    digest: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created_at: Mapped[float] = _time()
    last_used_at: Mapped[float | None] = mapped_column(sa.Double())
    revoked_at: Mapped[float | None] = mapped_column(sa.Double())


class PageSession(Base):
    """A browser that is signed in: the digests of its cookie and of the key that it stands for."""

    __tablename__ = "page_sessions"

    digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    key_digest: Mapped[str] = mapped_column(sa.String(64), index=True)
    created_at: Mapped[float] = _time()
    expires_at: Mapped[float] = mapped_column(sa.Double(), index=True)


class Delivery(Base):
    """The webhook of a job that ended: written in the transaction that ended it, sent until it arrives.

    `attempts` is a list of {at, status_code, error}; its sender holds a lease under a name of its own.
    """

    __tablename__ = "deliveries"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    owner: Mapped[str]
    status: Mapped[str] = mapped_column(sa.String(16))
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    next_at: Mapped[float] = _time()
    claimed_by: Mapped[str | None] = mapped_column(sa.String(255))
    lease_until: Mapped[float | None] = mapped_column(sa.Double())

    __table_args__ = (
        sa.Index(
            "ix_deliveries_pending",
            "next_at",
            sqlite_where=sa.text(_PENDING),
            postgresql_where=sa.text(_PENDING),
        ),
    )


class Lock(Base):
    """A named lease that one process of many holds, such as the sweep's."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(255))
    until: Mapped[float] = mapped_column(sa.Double())


class Worker(Base):
    """A live worker of a lane: readiness asks for one of each, and a sleeping laptop's rows go stale by themselves."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    lane: Mapped[str] = mapped_column(sa.String(16))
    device: Mapped[str] = mapped_column(sa.String(32))
    started_at: Mapped[float] = _time()
    seen_at: Mapped[float] = _time()


# The same tables for statements that many chunks run: the session would make an object's worth of each row.
CHUNKS, COLLECTIONS, IMAGES, JOBS, LOOSE_BLOBS, PLANNED_KEYS, SEGMENTS, THUMBNAILS = (
    Base.metadata.tables[name]
    for name in ("chunks", "collections", "images", "jobs", "loose_blobs", "planned_keys", "segments", "thumbnails")
)
