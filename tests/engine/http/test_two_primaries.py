"""A former primary that runs on after its successor has started, as if Patroni had died there."""

from contextlib import closing
from pathlib import Path

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from tests.support.edge import edge_of
from tests.support.relay import Relay
from tests.support.standby import pair_in
from tests.support.views import query, until

# All connections but those of reads.
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name LIKE 'ledger%' AND application_name NOT LIKE 'ledger api%'
"""


def test_reads_follow_the_writes_to_another_postgresql(
    folder: Path, template: Path, settings: Settings
) -> None:
    """Nothing ends the connections of reads: the former primary would answer them for ever."""
    with pair_in(folder, template) as pair, closing(Relay(pair.primary.url)) as relay:
        made = prepare_database(settings, relay.conninfo)
        with edge_of(settings, made) as edge:
            try:
                line = edge.fresh("capacity")
                path = f"/v1/execution/{line}"
                assert edge.data(path)["state"] != "paused"
                pair.copy()
                relay.lead_to(pair.promote())
                query(pair.primary.url, _END_OTHERS)
                pause = {"reason": "r"}
                until(lambda: edge.post(f"{path}/pause", json=pause).status_code == 200, "a write")
                until(lambda: edge.data(path)["state"] == "paused", "reads of the write", 10.0)
            finally:
                relay.cut()
