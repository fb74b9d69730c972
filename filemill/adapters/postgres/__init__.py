"""PostgreSQL, by SQLAlchemy and psycopg."""
