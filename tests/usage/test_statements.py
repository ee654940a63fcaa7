"""A statement's numbers can be computed again at any time: it is decided under the append lock."""

from datetime import timedelta

from tests.support.ledger import Ledger
from tests.support.statements import issue_of


def test_a_statement_is_recorded_later_than_its_instant_though_the_clock_stands_still(
    own_ledger: Ledger,
) -> None:
    own_ledger.line("capacity")
    as_of = own_ledger.clock.now + timedelta(seconds=1)
    issued = own_ledger.execute(issue_of(own_ledger.head(), as_of))
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
    assert own_ledger.execute(issue_of(position, as_of)).refusal == (503, "unavailable")
    assert own_ledger.rows("SELECT FROM ledger.ledger_events WHERE originator_id ~ '^STM'") == []
