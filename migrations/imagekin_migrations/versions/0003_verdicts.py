"""Verdicts on pairs of contents, and the size of images' files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("first", sa.String(length=64), nullable=False),
        sa.Column("second", sa.String(length=64), nullable=False),
        sa.Column("same", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "first", "second", name=op.f("pk_verdicts")),
    )
    op.add_column("images", sa.Column("nbytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("images", "nbytes")
    op.drop_table("verdicts")
