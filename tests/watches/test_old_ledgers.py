"""Watches on a ledger that a version without watches wrote."""

import json

import pytest

from ledger.app.composition.database import prepare_database
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.watches.kinds import InState
from tests.support.ledger import working
from tests.support.rebuilding import NAMES, rebuild, view
from tests.support.restored import OLD_LEDGERS, OldLedger
from tests.watches.test_rounds import told

# The lines that are blocked now, each with the beginning of its state.
_BLOCKED = """
SELECT line_id, head FROM ledger.execution WHERE state = 'blocked' AND organization_id = %s
"""
_ORGANIZATIONS = "SELECT DISTINCT organization_id FROM ledger.execution WHERE state = 'blocked'"


@pytest.mark.parametrize("old", OLD_LEDGERS[-1:], ids=lambda old: old.version)
def test_a_watch_finds_what_an_older_version_has_recorded_once_the_views_are_rebuilt(
    server: EmbeddedPostgres, old: OldLedger
) -> None:
    with old.restored(server.url) as conninfo:
        prepare_database(old.settings, conninfo)
        with working(conninfo, old.settings, old.clock) as ledger:
            assert ledger.watch_loop.run_once() == 0
            assert ledger.rows("SELECT * FROM ledger.watch_look") == []
            for name in NAMES:
                rebuild(conninfo, view(name))
            organization = ledger.rows(_ORGANIZATIONS)[0]["organization_id"]
            ledger.watch(InState(("blocked",)), organization=organization)
            ledger.look()
            alerts = told(ledger, "opened")
            found = {alert["subject"]["id"]: alert["since"] for alert in alerts}
            blocked = ledger.rows(_BLOCKED, organization)
            since = {r["line_id"]: json.loads(f"{{{r['head']}}}")["state_since"] for r in blocked}
            assert found == since != {}
            assert all(alert["evidence"] for alert in alerts)
