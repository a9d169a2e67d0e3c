"""Blobs outside the database: what no row names, and checksums of thumbnails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("thumbnails", sa.Column("checksum", sa.BigInteger(), nullable=True))
    op.create_table(
        "loose_blobs",
        sa.Column("segment_id", sa.String(length=32), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("removing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_loose_blobs")),
    )
    op.create_index(op.f("ix_loose_blobs_since"), "loose_blobs", ["since"])


def downgrade() -> None:
    outside = op.get_bind().scalar(sa.text("SELECT count(*) FROM segments WHERE length(data) = 0 AND count > 0"))
    if outside:
        raise RuntimeError(
            f"The version before cannot read the {outside} segments whose vectors are in object storage."
        )
    op.drop_table("loose_blobs")
    op.drop_column("thumbnails", "checksum")
