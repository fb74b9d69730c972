"""Alembic's environment. It uses the connection of `filemill.adapters.postgres.migrate`."""

from alembic import context

from filemill.adapters.postgres.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
