"""Uploads: bytes that a client sent for a job to come; the bytes stand in the storage, a row says whose they are."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import TERMINAL
from imagekin.settings import Settings
from imagekin.uploads.files import Stored


def path(upload_id: str) -> str:
    """Return the name that an upload's bytes have in the storage."""
    return f"uploads/{upload_id}"


def check_room(session: Session, owner: str, more_bytes: int, settings: Settings) -> None:
    """Raise QuotaExceeded if `more_bytes` would not fit beside the owner's stored uploads.

    Uploads that arrive at the same moment don't see each other, so they may pass the quota together.
    """
    limit = settings.max_stored_upload_bytes_per_owner
    if not limit:
        return
    total = sa.func.coalesce(sa.func.sum(tables.Upload.stored_bytes), 0)
    used = int(session.scalars(sa.select(total).where(tables.Upload.owner == owner)).one())
    if used + more_bytes > limit:
        raise errors.QuotaExceeded(
            f"Your stored uploads have {used:,} bytes of the {limit:,} that your quota allows; delete some, or wait "
            "until they expire."
        )


def add(
    session: Session,
    owner: str,
    upload_id: str,
    stored: Stored,
    filename: str | None,
    settings: Settings,
    *,
    size: int | None = None,
) -> tables.Upload:
    """Write the row of an upload whose bytes are stored; `size` is what was sent, where that is another number.

    Raises QuotaExceeded.
    """
    # a transaction that is run again, its commit's answer lost, finds its own row
    if (there := session.get(tables.Upload, upload_id)) is not None:
        return there
    check_room(session, owner, stored.size, settings)
    session.execute(
        sa.insert(tables.Upload).values(
            id=upload_id,
            owner=owner,
            path=path(upload_id),
            filename=filename,
            sha256=stored.sha256,
            size=stored.size if size is None else size,
            stored_bytes=stored.size,
            expires_at=sql.clock() + settings.upload_ttl_s,
        )
    )
    return session.get_one(tables.Upload, upload_id)


def get(session: Session, owner: str, upload_id: str, *, lock: bool = False) -> tables.Upload:
    """Return the owner's upload; raises UploadNotFound, also for one that has expired and that no job names.

    `lock` keeps a job that is being submitted and a deletion from missing each other.
    """
    upload = session.get(tables.Upload, upload_id, with_for_update=lock or None)
    if upload is None or upload.owner != owner or (_expired(session, upload) and not _jobs(session, upload_id)):
        raise errors.UploadNotFound()
    return upload


def delete(session: Session, owner: str, upload_id: str) -> str:
    """Delete the upload's row and return the name of its bytes, which the caller deletes after the commit.

    Raises UploadNotFound, and Conflict while an unfinished job names it.
    """
    upload = get(session, owner, upload_id, lock=True)
    if _jobs(session, upload_id, tables.Job.status.not_in(TERMINAL)):
        raise errors.Conflict("An unfinished job reads this upload; cancel the job or wait for its end.")
    session.delete(upload)
    return upload.path


def _expired(session: Session, upload: tables.Upload) -> bool:
    return upload.expires_at <= session.scalars(sa.select(sql.clock())).one()


def _jobs(session: Session, upload_id: str, *where: sa.ColumnElement[bool]) -> bool:
    named = sa.select(tables.Job.id).where(tables.Job.upload_id == upload_id, *where).limit(1)
    return session.scalar(named) is not None
