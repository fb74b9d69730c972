"""Alembic's environment: it runs on the connection that `filemill.adapters.postgres.migrate` hands over, and on no other."""

from alembic import context
from filemill.adapters.postgres.connection.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
