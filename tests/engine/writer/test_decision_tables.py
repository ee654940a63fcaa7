"""Decision tables equal the folded log, however its events were divided into appends."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Identity
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Receipt
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.features.watches.commands.watches import CreateWatch, DeleteWatch
from ledger.features.webhooks.commands import CreateEndpoint, DeleteEndpoint, EndpointSettings
from tests.support.decision_tables import FOLDED, assert_decision_tables_match_log
from tests.support.facts import ORGANIZATION, fact
from tests.support.ledger import REPORTER, Ledger
from tests.support.watch_workload import SETTINGS
from tests.support.webhook_workload import SECRET

LATER = datetime(2026, 12, 31, tzinfo=UTC)


def create_key(number: int) -> Command:
    return CreateApiKey(
        COMMAND_LINE,
        f"token {number}",
        name=None,
        organization_id=ORGANIZATION,
        workspace_id=None,
        permissions=("read", "write"),
    )


def create_watch() -> Command:
    tenant = {"organization_id": ORGANIZATION, "workspace_id": None}
    return CreateWatch(COMMAND_LINE, None, **tenant, settings=SETTINGS)


def create_endpoint() -> Command:
    return CreateEndpoint(
        COMMAND_LINE,
        None,
        secret=SECRET,
        settings=EndpointSettings("http://127.0.0.1:9/", ("*",), None, True),
        organization_id=ORGANIZATION,
        workspace_id=None,
    )


def rotate_key(number: int, key: int, grace: float) -> Command:
    return RotateApiKey(
        f"KEY-26-00000{key}",
        COMMAND_LINE,
        token=f"rotated token {number}",
        grace=timedelta(hours=grace),
    )


@pytest.mark.parametrize("together", [True, False])
def test_rows_of_created_and_ended_keys_and_endpoints_equal_the_folded_log(
    own_ledger: Ledger, together: bool
) -> None:
    commands = [
        *(create_key(number) for number in range(3)),
        UpdateApiKey("KEY-26-000001", COMMAND_LINE, name="first", expires_at=LATER),
        UpdateApiKey("KEY-26-000002", COMMAND_LINE, name="second"),
        UpdateApiKey("KEY-26-000002", COMMAND_LINE, expires_at=LATER),
        *(rotate_key(number, 2, grace) for number, grace in enumerate((24, 48, 1, 12))),
        rotate_key(9, 3, 0),
        *(RevokeApiKey(f"KEY-26-00000{number}", COMMAND_LINE) for number in (1, 3)),
        *(create_endpoint() for _ in range(3)),
        *(create_watch() for _ in range(3)),
        *(DeleteEndpoint(f"WHK-26-00000{number}", COMMAND_LINE) for number in (1, 3)),
        *(DeleteWatch(f"WCH-26-00000{number}", COMMAND_LINE) for number in (1, 3)),
    ]
    groups = [commands] if together else [[command] for command in commands]
    for group in groups:
        outcomes = own_ledger.writer.submit(group).result(20)
        assert [outcome for outcome in outcomes if not isinstance(outcome, Receipt)] == []
    assert_decision_tables_match_log(own_ledger.conninfo)
    keys = own_ledger.rows("SELECT key_id, revoked_at FROM ledger.api_key ORDER BY key_id")
    assert [row["revoked_at"] is None for row in keys] == [False, True, False]
    named = own_ledger.rows("SELECT name, expires_at FROM ledger.api_key ORDER BY key_id")
    assert [(row["name"], row["expires_at"]) for row in named] == [
        ("first", LATER), ("second", LATER), (None, None)
    ]  # fmt: skip
    former = own_ledger.rows(
        "SELECT key_id, valid_until FROM ledger.former_secret ORDER BY key_id, valid_until"
    )
    assert [row["key_id"] for row in former] == ["KEY-26-000002"] * 4 + ["KEY-26-000003"]
    ends = [row["valid_until"] - own_ledger.clock() for row in former]
    assert [round(end / timedelta(hours=1)) for end in ends] == [1, 1, 1, 12, 0]
    endpoints = own_ledger.rows("SELECT endpoint_id FROM ledger.endpoint")
    assert [row["endpoint_id"] for row in endpoints] == ["WHK-26-000002"]
    watches = own_ledger.rows("SELECT watch_id FROM ledger.organization_watch")
    assert [row["watch_id"] for row in watches] == ["WCH-26-000002"]


def test_a_check_in_and_its_void_have_an_identity_each(own_ledger: Ledger) -> None:
    check_in = fact("execution.checked_in", line := own_ledger.line("capacity"), {"hours": 2})
    void = fact("execution.check_in_voided", line, {"fact_id": check_in["id"]})
    first, second = own_ledger.accept(check_in, void)
    assert_decision_tables_match_log(own_ledger.conninfo)
    of_check_in, of_void = (
        Identity(ORGANIZATION, sent["source"], sent["id"]) for sent in (check_in, void)
    )
    stored = own_ledger.rows("SELECT digest, position FROM ledger.identity")
    assert {row["digest"].bytes: row["position"] for row in stored}.items() >= {
        (of_check_in.digest, first.position),
        (of_void.digest, second.position),
        (of_check_in.void.digest, second.position),
    }


def test_the_comparison_covers_every_folded_decision_table(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.run(line)
    own_ledger.accept(fact("execution.checked_in", line), by=REPORTER)
    key = "KEY-26-000001"
    rotate = RotateApiKey(key, COMMAND_LINE, token="rotated", grace=timedelta(hours=1))
    for command in (create_key(0), rotate, create_endpoint(), create_watch()):
        own_ledger.execute(command)
    assert assert_decision_tables_match_log(own_ledger.conninfo) == {table.name for table in FOLDED}
