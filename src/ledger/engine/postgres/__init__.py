"""PostgreSQL: connections and pipelines, descriptions of tables, and the embedded server."""
