"""The views that collections are searched in and that clusterings were made in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "collection_views",
        sa.Column("collection_id", sa.String(length=32), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_collection_views_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_collection_views")),
    )
    op.add_column("clusterings", sa.Column("view", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("clusterings", "view")
    op.drop_table("collection_views")
