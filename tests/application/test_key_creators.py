"""Keys of earlier versions get their creators from their first events (migration 0019)."""

from importlib.resources import files

import psycopg
import pytest

from ledger.application.commands.keys import CreateApiKey, RotateApiKey
from ledger.domain.api_key import GRACE
from ledger.intake.principal import COMMAND_LINE, Principal
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import ORGANIZATION
from tests.support.ledger import Ledger
from tests.support.stored import store_in_format_1

MIGRATION = files("ledger.log") / "migrations" / "0019_api_keys.sql"
CHIEF = Principal('user:é "chief"', "user", frozenset({"admin"}))


@pytest.mark.parametrize("format_", [1, 2])
def test_the_creator_of_a_key_is_read_from_its_first_event_in_either_format(
    own_ledger: Ledger, format_: int
) -> None:
    for number, by in enumerate((COMMAND_LINE, CHIEF)):
        command = CreateApiKey(
            by,
            f"token {number}",
            name=None,
            organization_id=ORGANIZATION,
            workspace_id=None,
            permissions=("read",),
        )
        made = own_ledger.execute(command)
        rotate = RotateApiKey(str(made.subject), COMMAND_LINE, token=f"t {number}", grace=GRACE)
        assert own_ledger.execute(rotate).outcome == "recorded"
    if format_ == 1:
        store_in_format_1(own_ledger.conninfo)
    (fill,) = (part for part in MIGRATION.read_text().split(";") if "UPDATE ledger.api_key" in part)
    with psycopg.connect(own_ledger.conninfo) as connection:
        connection.execute("UPDATE ledger.api_key SET created_by_type = NULL, created_by_id = NULL")
        connection.execute(fill.encode())
    assert_decision_tables_match_log(own_ledger.conninfo)
    rows = own_ledger.rows(
        "SELECT created_by_type, created_by_id FROM ledger.api_key ORDER BY key_id"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("system", COMMAND_LINE.id),
        ("user", CHIEF.id),
    ]
