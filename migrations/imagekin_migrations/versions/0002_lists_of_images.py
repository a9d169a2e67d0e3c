"""Lists of images: an index for their pages, and keys that sort by code points on PostgreSQL, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVE = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    op.create_index(
        "ix_images_collection_id", "images", ["collection_id", "id"], sqlite_where=LIVE, postgresql_where=LIVE
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE images ALTER COLUMN key TYPE VARCHAR(1024) COLLATE "C"')


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE images ALTER COLUMN key TYPE VARCHAR(1024) COLLATE "default"')
    op.drop_index("ix_images_collection_id", "images")
