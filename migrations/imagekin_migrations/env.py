"""Alembic's entry: runs on the connection, and in the transaction, that imagekin_migrations hands over."""

from alembic import context

from imagekin.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
)
context.run_migrations()
