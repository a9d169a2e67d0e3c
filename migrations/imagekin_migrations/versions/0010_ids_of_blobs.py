"""Ids of blobs in the storage: they were their segments', and a segment whose blobs move gets another each time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("segments", "thumbnails"):
        op.add_column(table, sa.Column("blob", sa.String(length=32), nullable=True))
    op.execute("UPDATE segments SET blob = id WHERE length(data) = 0 AND count > 0")
    # 0 is the checksum of nothing
    op.execute(
        "UPDATE thumbnails SET blob = segment_id WHERE length(data) = 0 AND checksum <> 0"
        " AND segment_id IN (SELECT id FROM segments WHERE blob IS NOT NULL)"
    )
    op.create_index(
        op.f("ix_segments_blob"),
        "segments",
        ["blob"],
        sqlite_where=sa.text("blob IS NOT NULL"),
        postgresql_where=sa.text("blob IS NOT NULL"),
    )
    op.execute("ALTER TABLE loose_blobs RENAME COLUMN segment_id TO id")


def downgrade() -> None:
    outside = op.get_bind().scalar(sa.text("SELECT count(*) FROM segments WHERE blob <> id"))
    if outside:
        raise RuntimeError(
            f"The version before cannot find the {outside} blobs in object storage that were moved there;"
            " move them into the database first."
        )
    op.execute("ALTER TABLE loose_blobs RENAME COLUMN id TO segment_id")
    op.drop_index(op.f("ix_segments_blob"), table_name="segments")
    for table in ("segments", "thumbnails"):
        op.drop_column(table, "blob")
