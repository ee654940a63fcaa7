"""Everything about talking to a PostgreSQL server."""
