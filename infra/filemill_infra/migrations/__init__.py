"""Alembic's migrations. `filemill.adapters.postgres.migrate` runs them; `filemill migrate` is its command."""
