"""Alembic's migrations. `filemill.migrate` runs them; `filemill migrate` is its command."""
