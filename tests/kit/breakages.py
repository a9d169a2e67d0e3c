"""What tests break in a healthy system, each with the checks that find it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import doctor
from imagekin.database import tables
from imagekin.enums import ItemStatus
from imagekin.schemas.kinds import JobKind
from imagekin.store import ledger, vector_codec
from imagekin.store.blobs import Blobs, Kind
from kit.hand import Hand


def examine(hand: Hand, *, repair: bool = False) -> doctor.Report:
    return doctor.examine(hand.database, hand.storage, hand.settings, repair=repair)


def found(report: doctor.Report) -> set[str]:
    return {outcome.name for outcome in report.outcomes.values() if outcome.found}


def left(report: doctor.Report) -> set[str]:
    return {outcome.name for outcome in report.outcomes.values() if outcome.left}


@dataclass(frozen=True)
class Fault:
    """Something to break, and which checks then find something, before and after repair."""

    do: Callable[[Hand], object] | tuple[str, ...]
    found: set[str]
    left: set[str]
    name: str

    def strike(self, hand: Hand) -> None:
        if callable(self.do):
            self.do(hand)
            return
        for statement in self.do:
            assert hand.sql(statement) == 1, statement


# the eventful life's jobs, chunks and images by something that only they have
EMBED = "(SELECT job_id FROM chunks WHERE kind = 'embed' AND status = 'done' AND failed = 1 AND size = 4)"
CANCELLED = "(SELECT min(job_id) FROM chunks WHERE kind = 'embed' AND status = 'cancelled')"
SEARCH = "(SELECT job_id FROM results)"
IMAGE = "key = '06'"
SEGMENT = "(SELECT segment_id FROM images WHERE key = '06')"


def statements(*sql: str, found: set[str], left: set[str] | None = None, name: str = "") -> Fault:
    return Fault(sql, found, found if left is None else left, name or sql[0][:60])


def fault(do: Callable[[Hand], object], found: set[str], left: set[str] | None = None) -> Fault:
    return Fault(do, found, found if left is None else left, do.__name__)


def rewrite_ledger(hand: Hand, change: Callable[[list[ledger.Record]], object]) -> None:
    def rewrite(session: Session) -> None:
        chunk = session.scalars(
            sa.select(tables.Chunk).filter_by(kind=JobKind.EMBED, status="done", failed=1, size=4)
        ).one()
        records = ledger.records(chunk.ledger or b"")
        changed = change(records)
        chunk.ledger = changed if isinstance(changed, bytes) else ledger.pack(records)

    hand.database.write(rewrite)


def ledger_in_another_order(hand: Hand) -> None:
    rewrite_ledger(hand, lambda records: records.reverse())


def ledger_with_another_status(hand: Hand) -> None:
    rewrite_ledger(hand, lambda r: r.__setitem__(0, r[0]._replace(status=ItemStatus.REUSED)))


def ledger_of_noise(hand: Hand) -> None:
    rewrite_ledger(hand, lambda _: b"noise")


def segment_of(hand: Hand, change: Callable[[tables.Segment], None]) -> None:
    def rewrite(session: Session) -> None:
        image = session.scalars(sa.select(tables.Image).filter_by(key="06")).one()
        change(session.get_one(tables.Segment, image.segment_id))

    hand.database.write(rewrite)


def vectors_of_nan(hand: Hand) -> None:
    def change(segment: tables.Segment) -> None:
        segment.data = b"\xff" * len(segment.data)
        segment.checksum = vector_codec.checksum(segment.data)

    segment_of(hand, change)


def one_bit_of_a_vector(hand: Hand) -> None:
    def change(segment: tables.Segment) -> None:
        segment.data = segment.data[:-1] + bytes([segment.data[-1] ^ 1])

    segment_of(hand, change)


def a_segment_too_short(hand: Hand) -> None:
    def change(segment: tables.Segment) -> None:
        segment.data = segment.data[:-4]
        segment.checksum = vector_codec.checksum(segment.data)

    segment_of(hand, change)


def thumbnails_that_overlap(hand: Hand) -> None:
    def change(session: Session) -> None:
        image = session.scalars(sa.select(tables.Image).filter_by(key="06")).one()
        pack = session.get_one(tables.Thumbnails, image.segment_id)
        ends = np.frombuffer(pack.offsets, "<u4").copy()
        ends[1] = ends[2] + 1
        pack.offsets = ends.tobytes()

    hand.database.write(change)


def two_images_of_one_key(hand: Hand) -> None:
    hand.sql("DROP INDEX uq_images_collection_key")
    hand.sql("UPDATE images SET key = '07' WHERE key = '06'")


def a_search_without_an_end(hand: Hand) -> None:
    hand.sql(f"UPDATE jobs SET status = 'running', finished_at = NULL, expires_at = NULL WHERE id = {SEARCH}")


def a_search_without_result_or_end(hand: Hand) -> None:
    a_search_without_an_end(hand)
    hand.sql("DELETE FROM results")


def a_job_without_its_chunks(hand: Hand) -> None:
    hand.sql(f"DELETE FROM chunks WHERE job_id = {EMBED}")


def a_segment_that_nobody_needs(hand: Hand) -> None:
    hand.sql(
        "INSERT INTO segments (id, collection_id, count, dim, dtype, checksum, created_at, data)"
        f" SELECT 'lonely', collection_id, count, dim, dtype, checksum, created_at - 7200, data FROM segments"
        f" WHERE id = {SEGMENT}"
    )


def a_file_without_an_upload(hand: Hand) -> None:
    hand.storage.write("uploads/orphan", [b"bytes"], 100)
    os.utime(hand.settings.data_dir / "storage" / "uploads" / "orphan", (1, 1))


def a_blob_that_no_row_knows(hand: Hand) -> None:
    folder = hand.settings.data_dir / "blobs"
    storage = Blobs(str(folder))
    storage.put({(Kind.VECTORS, tables.new_id()): b"bytes"})
    [[path]] = [folder.rglob("*/*/*")]
    os.utime(path, (1, 1))
    hand.database.blobs = storage


def an_upload_without_its_file(hand: Hand) -> None:
    path = hand.database.read(lambda s: s.scalar(sa.select(sa.func.min(tables.Upload.path))))
    hand.storage.delete(path or "")


def an_upload_past_its_life(hand: Hand) -> None:
    path = hand.database.read(
        lambda s: s.scalars(
            sa.select(tables.Upload.path).where(
                tables.Upload.id.not_in(sa.select(tables.Job.upload_id).where(tables.Job.upload_id.is_not(None)))
            )
        ).one()
    )
    assert hand.sql("UPDATE uploads SET expires_at = 1 WHERE path = :path", path=path) == 1
    assert hand.storage.exists(path)


def a_collection_deleted_long_ago(hand: Hand) -> None:
    hand.sql("UPDATE collections SET deleted_at = deleted_at - 7200 WHERE deleted_at IS NOT NULL")


def without_foreign_keys(*sql: str) -> Callable[[Hand], None]:
    def do(hand: Hand) -> None:
        with hand.database.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if hand.database.is_sqlite:
                cursor = raw.cursor()
                for statement in ("PRAGMA foreign_keys=OFF", *sql, "PRAGMA foreign_keys=ON"):
                    cursor.execute(statement)
                cursor.close()
            else:
                with raw.cursor() as cursor:
                    for statement in ("SET LOCAL session_replication_role = replica", *sql):
                        cursor.execute(statement)
                raw.commit()

    do.__name__ = sql[0][:60]
    return do


DANGLING = {"dangling_rows"}
FAULTS = [
    statements(f"UPDATE jobs SET total = total + 1 WHERE id = {EMBED}", found={"job_counts", "job_sums"}),
    statements(f"UPDATE jobs SET embedded = embedded - 1, reused = reused + 1 WHERE id = {EMBED}", found={"job_sums"}),
    statements(
        f"UPDATE chunks SET embedded = embedded + 1 WHERE job_id = {EMBED} AND seq = 0",
        found={"job_sums", "ledger_counts"},
    ),
    statements(f"UPDATE chunks SET seq = 9 WHERE job_id = {EMBED} AND seq = 8", found={"job_sums"}),
    fault(a_job_without_its_chunks, {"job_sums"}),
    statements(
        f"UPDATE jobs SET status = 'running', finished_at = NULL WHERE id = {EMBED}", found={"job_ends"}, left=set()
    ),
    statements(
        f"UPDATE chunks SET status = 'ready' WHERE job_id = {CANCELLED} AND status = 'cancelled' AND seq = 2",
        found={"job_ends", "job_sums"},
        left=set(),
    ),
    fault(a_search_without_an_end, {"job_ends"}, set()),
    fault(a_search_without_result_or_end, {"job_ends"}, set()),
    statements("DELETE FROM results", found={"job_results"}),
    fault(ledger_in_another_order, {"ledger_keys"}),
    fault(ledger_with_another_status, {"ledger_counts"}),
    fault(ledger_of_noise, {"ledger_counts"}),
    statements(f"DELETE FROM images WHERE {IMAGE}", found={"ledger_images", "image_count"}, left={"ledger_images"}),
    statements(
        "UPDATE collections SET image_count = image_count + 1 WHERE name = 'photos'",
        found={"image_count"},
        left=set(),
    ),
    statements("UPDATE collections SET revision = 1 WHERE name = 'photos'", found={"revisions"}),
    statements("UPDATE collections SET pruned_revision = 999 WHERE name = 'photos'", found={"revisions"}),
    fault(two_images_of_one_key, {"unique_keys", "ledger_images"}),
    statements(f"UPDATE images SET row = 999 WHERE {IMAGE}", found={"images_resolve"}),
    statements(
        f"UPDATE images SET row = (SELECT row FROM images WHERE key = '07') WHERE {IMAGE}", found={"images_resolve"}
    ),
    statements(
        "UPDATE images SET row = 0, segment_id = (SELECT min(segments.id) FROM segments JOIN collections"
        f" ON collections.id = collection_id WHERE name = 'half') WHERE {IMAGE}",
        found={"images_resolve"},
    ),
    fault(a_segment_that_nobody_needs, {"segments_used"}, set()),
    fault(a_segment_too_short, {"segment_shape"}),
    statements(f"UPDATE segments SET dtype = 'float16' WHERE id = {SEGMENT}", found={"segment_shape"}),
    fault(one_bit_of_a_vector, {"segment_checksum"}),
    fault(vectors_of_nan, {"vectors_finite"}),
    fault(thumbnails_that_overlap, {"thumbnail_offsets"}),
    statements(f"UPDATE thumbnails SET checksum = 1 WHERE segment_id = {SEGMENT}", found={"thumbnail_checksum"}),
    statements(f"UPDATE segments SET data = '', blob = 'none' WHERE id = {SEGMENT}", found={"blobs_there"}),
    statements("INSERT INTO loose_blobs (id, since, removing) VALUES ('none', 1, false)", found={"loose_blobs"}),
    statements("UPDATE spaces SET precision = 'fast'", found={"spaces"}),
    statements("UPDATE chunks SET lease_until = 1 WHERE status = 'claimed'", found={"leases"}, left=set()),
    statements("UPDATE chunks SET lease_until = NULL WHERE status = 'claimed'", found={"leases"}, left=set()),
    statements(f"UPDATE jobs SET expires_at = 1 WHERE id = {EMBED}", found={"expired_jobs"}, left=set()),
    fault(an_upload_past_its_life, {"expired_uploads"}, set()),
    fault(an_upload_without_its_file, {"upload_files"}),
    fault(a_file_without_an_upload, {"orphan_files"}, set()),
    fault(a_blob_that_no_row_knows, {"unknown_blobs"}, set()),
    fault(a_collection_deleted_long_ago, {"deleted_collections"}, set()),
    fault(without_foreign_keys(f"DELETE FROM jobs WHERE id = {SEARCH}"), DANGLING, set()),
    fault(without_foreign_keys(f"DELETE FROM jobs WHERE id = {CANCELLED}"), DANGLING, set()),
    fault(
        without_foreign_keys("UPDATE thumbnails SET segment_id = 'none' WHERE segment_id = " + SEGMENT),
        DANGLING,
        set(),
    ),
    fault(without_foreign_keys("UPDATE jobs SET collection_id = 'none' WHERE id = " + SEARCH), DANGLING),
    statements("UPDATE alembic_version SET version_num = '9999'", found={"migrated"}),
]
