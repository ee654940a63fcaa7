"""A statement's numbers can be asked again for ever: decided under the append lock."""

from datetime import datetime, timedelta

import msgspec

from ledger.application.commands.statements import IssueStatement, Numbers
from ledger.domain.statement import InstantText, StatementIssued
from ledger.domain.values import format_instant
from ledger.intake.principal import COMMAND_LINE
from tests.support.facts import ORGANIZATION
from tests.support.ledger import Ledger


def issue(position: int, as_of: datetime) -> IssueStatement:
    event = StatementIssued(
        organization_id=ORGANIZATION,
        from_=InstantText("2026-03-01T00:00:00Z"),
        to=InstantText("2026-04-01T00:00:00Z"),
        time_zone="UTC",
        as_of=InstantText(format_instant(as_of)),
        position=position,
        document_sha256="00" * 32,
    )
    return IssueStatement(
        COMMAND_LINE,
        None,
        organization_id=ORGANIZATION,
        workspace_id=None,
        replaces=None,
        numbers=Numbers(event, as_of, msgspec.Raw(b"{}")),
    )


def test_a_statement_is_recorded_later_than_its_instant_though_the_clock_stands_still(
    own_ledger: Ledger,
) -> None:
    own_ledger.line("capacity")
    as_of = own_ledger.clock.now + timedelta(seconds=1)
    issued = own_ledger.execute(issue(own_ledger.head(), as_of))
    assert issued.outcome == "recorded"
    (row,) = own_ledger.rows(
        f"SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = {issued.position}"
    )
    assert row["recorded_at"] > as_of


def test_numbers_that_a_node_with_a_clock_behind_has_overtaken_are_refused(
    own_ledger: Ledger,
) -> None:
    own_ledger.line("capacity")
    position, as_of = own_ledger.head(), own_ledger.clock.now + timedelta(seconds=1)
    own_ledger.line("capacity")
    assert own_ledger.execute(issue(position, as_of)).refusal == (503, "unavailable")
    assert own_ledger.rows("SELECT FROM ledger.ledger_events WHERE originator_id ~ '^STM'") == []
