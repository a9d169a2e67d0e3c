"""Indexes of collections' vectors, whose rows are tables of their own that jobs make."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vector_indexes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("collection_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.LargeBinary(), nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_vector_indexes_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_indexes")),
    )
    op.create_index(op.f("ix_vector_indexes_collection_id"), "vector_indexes", ["collection_id"])


def downgrade() -> None:
    # collections are searched exactly again
    for (index_id,) in op.get_bind().execute(sa.text("SELECT id FROM vector_indexes")):
        op.execute(f"DROP TABLE IF EXISTS hnsw_{index_id}")
    op.drop_table("vector_indexes")
