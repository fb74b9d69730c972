"""Alembic's environment: it uses the connection of `filemill.adapters.postgres.migrate`, and no other."""

from alembic import context

from filemill.adapters.postgres.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
