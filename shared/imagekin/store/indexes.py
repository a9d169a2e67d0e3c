"""Indexes of collections' vectors in PostgreSQL: HNSW graphs of pgvector, which lead searches to candidates.

The rows of an index are a table of its own, `hnsw_ID`: an image's id, the revision that brought its vector, and the
vector, made small: half-precision numbers, or their signs where there are more than 4,000. A row counts while the image
is at that revision, so nothing is written here when images are deleted or replaced. Images that came after the index's
own revision are read from their segments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.enums import TERMINAL, IndexStatus

Image, Segment, VectorIndex = tables.Image, tables.Segment, tables.VectorIndex

EXTENSION = "vector"
# Iterative scans are from this version on.
LEAST_VERSION = (0, 8)
NEEDED = "`hnsw` needs PostgreSQL with the extension pgvector 0.8 or newer"
# What pgvector indexes as half-precision numbers; vectors beyond are indexed by their signs.
MOST_HALVES = 4000
# Dead connections are noticed that soon, so that the index of a killed worker is not built on.
CHECKED_MS = 2000
# A search that waits for a table to be dropped waits no longer than this.
LOCK_TIMEOUT_S = 2
# The links of a row, and how many rows are looked at to choose them. pgvector's own 64 left crowds of similar pictures
# without a way to each other: of 200,000 rows 8 % of the searches found nothing near.
LINKS, BUILD_BREADTH = 16, 200
# Shared memory that the machine does not have: containers often have little.
NO_SHARED_MEMORY = ("53100", "53200")


@dataclass(frozen=True)
class Index:
    """An index of a collection's vectors as of `revision`; it had `images` when it was built."""

    id: str
    collection_id: str
    dim: int
    revision: int
    images: int = 0

    @property
    def table(self) -> str:
        """The table of its rows."""
        return f"hnsw_{self.id}"

    @property
    def graph(self) -> str:
        """PostgreSQL's index over them."""
        return f"{self.table}_vector"

    @property
    def signs(self) -> bool:
        """Whether it has the signs of numbers alone, which order vectors less well."""
        return self.dim > MOST_HALVES

    @property
    def type(self) -> str:
        """The SQL type of its vectors."""
        return f"bit({self.dim})" if self.signs else f"halfvec({self.dim})"


# --- whether there can be one ------------------------------------------------------------------------------------


def why_not(session: Session) -> str | None:
    """Return why this database cannot have indexes, None if it can; the extension is created where that is allowed."""
    if session.get_bind().dialect.name != "postgresql":
        return f"{NEEDED}; this service keeps its data in SQLite. See IMAGEKIN_DATABASE_URL."
    version = _version(session)
    if version is None:
        offered = session.scalar(
            sa.text("SELECT default_version FROM pg_available_extensions WHERE name = :name"), {"name": EXTENSION}
        )
        if offered is None:
            return f"{NEEDED}, which is not installed on the database's machine; then try again."
        try:
            with session.begin_nested():
                session.execute(sa.text(f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}"))
        except DBAPIError:
            # not allowed, or another request was faster
            if _version(session) is None:
                return f"{NEEDED}; have an administrator run `CREATE EXTENSION {EXTENSION}` in the service's database."
        version = _version(session)
    if _numbers(version) < LEAST_VERSION:
        return f"{NEEDED}; it has {version}: install a newer one and run `ALTER EXTENSION {EXTENSION} UPDATE`."
    return None


def _version(session: Session) -> str | None:
    installed = sa.text("SELECT extversion FROM pg_extension WHERE extname = :name")
    return session.scalar(installed, {"name": EXTENSION})


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version or "")))


# --- making one --------------------------------------------------------------------------------------------------


def begin(session: Session, index: Index, view: bytes) -> None:
    """Create the table of a new index, whose vectors will be in `view`; what was begun before is removed."""
    drop(session, index.id)
    session.execute(sa.text(f"CREATE TABLE {index.table} {_columns(index)}"))
    session.add(
        VectorIndex(
            id=index.id,
            collection_id=index.collection_id,
            status=IndexStatus.BUILDING,
            dim=index.dim,
            revision=index.revision,
            view=view,
            sums=b"",
        )
    )


def _columns(index: Index) -> str:
    return f"(image_id varchar({tables.ID_LENGTH}) PRIMARY KEY, revision bigint NOT NULL, vector {index.type} NOT NULL)"


def revisions(session: Session, ids: Sequence[str]) -> dict[str, int]:
    """Return at which revision each of the images is."""
    found: dict[str, int] = {}
    for some in sql.batches(ids):
        found |= dict(session.execute(sa.select(Image.id, Image.revision).where(Image.id.in_(some))).all())
    return found


def add(session: Session, index: Index, names: NDArray[np.bytes_], revised: Sequence[int], rows: np.ndarray) -> None:
    """Add rows (n, dim) of images (n,), in the view of the index, at their revisions."""
    if not len(names):
        return
    vector: list[tuple[Any, ...]]
    if index.signs:
        bits = np.packbits(rows > 0, axis=1)
        vector = [("bits", ">i4"), ("vector", "u1", bits.shape[1:])]
    else:
        bits = rows.astype(">f2")
        vector = [("dim", ">i2"), ("unused", ">i2"), ("vector", ">f2", bits.shape[1:])]
    # rows as COPY reads them: the number of fields, and before each the length of it
    size = np.dtype(vector).itemsize
    lengths = {"fields": 3, "id_length": names.itemsize, "revision_length": 8, "length": size}
    fields = [("fields", ">i2"), ("id_length", ">i4"), ("id", names.dtype), ("revision_length", ">i4")]
    copied = np.zeros(len(names), np.dtype([*fields, ("revision", ">i8"), ("length", ">i4"), *vector]))
    for name, value in lengths.items():
        copied[name] = value
    copied["id"], copied["revision"], copied["vector"] = names, revised, bits
    copied["bits" if index.signs else "dim"] = index.dim
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor().copy(f"COPY {index.table} FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8) + copied.tobytes() + b"\xff\xff")


def build(connection: sa.Connection, index: Index, memory_bytes: int) -> None:
    """Build the graph over all rows, beside everything else, on a connection of its own that commits by itself.

    What an earlier attempt left is removed first. It may be cancelled from another thread.
    """
    options = {
        "statement_timeout": "0",
        "client_connection_check_interval": str(CHECKED_MS),
        "maintenance_work_mem": f"{memory_bytes >> 10}kB",
    }
    for name, value in options.items():
        _set(connection, name, value)
    connection.exec_driver_sql(f"ANALYZE {index.table}")
    try:
        _build(connection, index)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in NO_SHARED_MEMORY:
            raise
        # several processes share the memory; one has its own
        _set(connection, "max_parallel_maintenance_workers", "0")
        _build(connection, index)


def _set(connection: sa.Connection, name: str, value: str) -> None:
    connection.execute(sa.select(sa.func.set_config(name, value, False)))


def _build(connection: sa.Connection, index: Index) -> None:
    operators = "bit_hamming_ops" if index.signs else "halfvec_ip_ops"
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index.graph}")
    connection.exec_driver_sql(
        f"CREATE INDEX CONCURRENTLY {index.graph} ON {index.table} USING hnsw (vector {operators})"
        f" WITH (m = {LINKS}, ef_construction = {BUILD_BREADTH})"
    )


def progress(session: Session, index: Index) -> float:
    """Return how much of the graph is built, 0 to 1; 0 if nothing is at work."""
    found = session.execute(
        sa.text(
            "SELECT blocks_done, blocks_total, tuples_done, reltuples FROM pg_stat_progress_create_index"
            " JOIN pg_class ON pg_class.oid = relid WHERE relid = to_regclass(:name)"
        ),
        {"name": index.table},
    ).first()
    if found is None:
        return 0.0
    return min(1.0, max(found.blocks_done / max(found.blocks_total, 1), found.tuples_done / max(found.reltuples, 1)))


def is_built(session: Session, index: Index) -> bool:
    """Return whether the graph is complete."""
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(session.scalar(valid, {"name": index.graph}))


def put_in_place(session: Session, index: Index, images: int, sums: bytes) -> None:
    """Have searches of the collection use an index that is built, instead of the one before it."""
    retire(session, index.collection_id)
    session.execute(
        sa.update(VectorIndex)
        .where(VectorIndex.id == index.id)
        .values(status=IndexStatus.READY, images=images, sums=sums, ready_at=sql.clock())
        .execution_options(synchronize_session=False)
    )


def retire(session: Session, collection_id: str) -> None:
    """Have searches of the collection look at all vectors again; the table is dropped by the upkeep."""
    mine = sa.and_(VectorIndex.collection_id == collection_id, VectorIndex.status == IndexStatus.READY)
    retired = sa.update(VectorIndex).where(mine).values(status=IndexStatus.DROPPED, ready_at=sql.clock())
    session.execute(retired.execution_options(synchronize_session=False))


def size(session: Session, index: Index) -> int:
    """Return the bytes of an index with its rows."""
    return session.scalar(sa.text("SELECT pg_total_relation_size(to_regclass(:name))"), {"name": index.table}) or 0


# --- what there is -----------------------------------------------------------------------------------------------


def ready(session: Session, collection_id: str) -> Index | None:
    """Return the index that searches of the collection use; None without one, or if its graph is not sound."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    row = session.execute(_READY, {"collection": collection_id}).first()
    return None if row is None else Index(*row)


_READY = sa.text(
    "SELECT id, collection_id, dim, revision, images FROM vector_indexes"
    " JOIN pg_index ON indexrelid = to_regclass('hnsw_' || id || '_vector') AND indisvalid"
    f" WHERE collection_id = :collection AND status = '{IndexStatus.READY.value}'"
)


def all_ready(session: Session) -> list[str]:
    """Return the collections that have an index."""
    Collection = tables.Collection
    mine = sa.select(VectorIndex.collection_id).join(Collection, VectorIndex.collection_id == Collection.id)
    used = mine.where(VectorIndex.status == IndexStatus.READY, Collection.deleted_at.is_(None))
    return list(session.scalars(used))


def told(session: Session) -> str:
    """Return in a sentence what indexes there are, and whether all that searches should use are sound."""
    alive = sa.select(VectorIndex.status, VectorIndex.collection_id).where(VectorIndex.status != IndexStatus.DROPPED)
    rows = session.execute(alive).all()
    if not rows:
        return "ok"
    used = [row.collection_id for row in rows if row.status == IndexStatus.READY]
    broken = [id for id in used if ready(session, id) is None]
    building = f"{len(rows) - len(used)} being built" if len(rows) > len(used) else ""
    counts = ", ".join(part for part in (f"{len(used)} ready", building) if part)
    if not broken:
        return f"ok: {counts}"
    return f"{counts}; {len(broken)} not sound, whose collections are searched exactly: see `imagekin doctor`"


def of(session: Session, collection_ids: Sequence[str]) -> dict[str, list[tables.VectorIndex]]:
    """Return the indexes of collections, those that are being built and those that are searched."""
    living = sa.select(VectorIndex).where(VectorIndex.status != IndexStatus.DROPPED)
    found: dict[str, list[tables.VectorIndex]] = {}
    for some in sql.batches(collection_ids):
        for one in session.scalars(living.where(VectorIndex.collection_id.in_(some))):
            found.setdefault(one.collection_id, []).append(one)
    return found


def saved(session: Session, index_id: str) -> tuple[bytes, bytes]:
    """Return the view that an index's vectors are in, and what a view is made of, as a worker saved them."""
    columns = sa.select(VectorIndex.view, VectorIndex.sums)
    row = session.execute(columns.where(VectorIndex.id == index_id)).one()
    return row.view, row.sums


def behind(session: Session, index: Index, limit: int) -> int:
    """Return how many images changed after the index's revision, `limit` at most."""
    changed = sa.select(Image.id).where(Image.collection_id == index.collection_id, Image.revision > index.revision)
    return session.scalar(sa.select(sa.func.count()).select_from(changed.limit(limit).subquery())) or 0


def missing(session: Session, index: Index, most: int) -> int:
    """Return how many of the newest images, up to `most`, an index does not have although it should."""
    mine = sa.and_(
        Image.collection_id == index.collection_id, Image.revision <= index.revision, Image.deleted_at.is_(None)
    )
    newest = sa.select(Image.id, Image.revision).where(mine).order_by(Image.revision.desc()).limit(most).subquery()
    rows = sa.table(index.table, sa.column("image_id"), sa.column("revision"))
    there = sa.exists().where(rows.c.image_id == newest.c.id, rows.c.revision == newest.c.revision)
    return session.scalar(sa.select(sa.func.count()).select_from(newest).where(sa.not_(there))) or 0


def leftovers(session: Session, late_s: float = 0) -> list[str]:
    """Return indexes that nothing searches and no job is making, for at least `late_s` seconds."""
    Collection, Job, past = tables.Collection, tables.Job, sql.clock() - late_s
    at_work = sa.or_(Job.status.not_in(TERMINAL), Job.finished_at > past)
    of_a_job = sa.exists().where(Job.id == VectorIndex.id, at_work)
    gone = sa.exists().where(Collection.id == VectorIndex.collection_id, Collection.deleted_at <= past)
    left = sa.or_(
        sa.and_(VectorIndex.status == IndexStatus.DROPPED, VectorIndex.ready_at <= past),
        sa.and_(VectorIndex.status == IndexStatus.BUILDING, VectorIndex.created_at <= past, sa.not_(of_a_job)),
        gone,
    )
    return list(session.scalars(sa.select(VectorIndex.id).where(left)))


_HELD = sa.text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass(:name) AND pid <> pg_backend_pid()"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)


def drop(session: Session, index_id: str) -> bool:
    """Drop an index with its rows, unless another process holds it, as a backup does for hours; return whether."""
    if session.scalar(_HELD, {"name": f"hnsw_{index_id}"}):
        return False
    session.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
    session.execute(sa.text(f"DROP TABLE IF EXISTS hnsw_{index_id}"))
    session.execute(sa.delete(VectorIndex).where(VectorIndex.id == index_id))
    return True


# --- catching up -------------------------------------------------------------------------------------------------


def next_revision(session: Session, index: Index, rows: int) -> int | None:
    """Return up to which revision the next `rows` changes go, or a few more; None without later ones."""
    later = sa.select(Image.revision).where(Image.collection_id == index.collection_id, Image.revision > index.revision)
    last = session.scalar(later.order_by(Image.revision).offset(rows - 1).limit(1))
    return last if last is not None else session.scalar(later.order_by(Image.revision.desc()).limit(1))


def follow(
    session: Session,
    index: Index,
    upto: int,
    gone: Sequence[str],
    added: tuple[NDArray[np.bytes_], Sequence[int], np.ndarray],
    sums: bytes,
) -> Index | None:
    """Bring an index to revision `upto`: without the rows of `gone`, with those added, as `add` takes them.

    Those are images (n,), their revisions (n,) and vectors (n, dim). None if another process was faster.
    """
    mine = sa.and_(
        VectorIndex.id == index.id, VectorIndex.revision == index.revision, VectorIndex.status == IndexStatus.READY
    )
    moved = sa.update(VectorIndex).where(mine).values(revision=upto, sums=sums).returning(VectorIndex.id)
    if session.execute(moved.execution_options(synchronize_session=False)).first() is None:
        return None
    for some in sql.batches(gone):
        session.execute(sa.text(f"DELETE FROM {index.table} WHERE image_id = ANY(:ids)"), {"ids": list(some)})
    add(session, index, *added)
    return replace(index, revision=upto)
