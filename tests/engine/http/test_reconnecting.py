"""PostgreSQL has ended idle connections: no client that reads notices it."""

from tests.support.edge import Edge


def test_reads_go_on_after_postgresql_has_ended_their_connections(edge: Edge) -> None:
    """As after a restart of the database. There is one connection at first; more come as needed."""
    line_id = edge.fresh()
    for _ in range(3):
        (ended,) = edge.select(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'ledger api' AND datname = current_database()"
        )
        assert ended[0] >= 1
        for _ in range(4):
            assert edge.get(f"/v1/execution/{line_id}").status_code == 200
