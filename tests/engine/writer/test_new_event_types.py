"""A newer type of event is recorded only while each node that beats understands it."""

import psycopg
import pytest

from ledger import __version__
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.nodes import beat
from ledger.engine.postgres.timing import LIVING_SECONDS
from ledger.engine.values.event_table import LANGUAGE
from ledger.features.directory.model import DirectoryNamed
from ledger.records import EVENT_TABLE, EVENTS, SINCE
from tests.support.facts import fact
from tests.support.ledger import Ledger

FIRST = """
alert.acknowledged alert.opened alert.reminded alert.resolved api_key.created api_key.revoked
api_key.rotated api_key.updated directory.named execution.activated execution.active
execution.blocked execution.check_in_voided execution.checked_in execution.closed
execution.hold_changed execution.idle execution.paused execution.resumed execution.unblocked
execution.updated health.signal_reported resource.allocated resource.released run.cancelled
run.completed run.erased run.failed run.parent_given run.requested run.started run.usage_corrected
run_data.read session.begun session.ended statement.issued statement.withdrawn watch.created
watch.deleted watch.updated webhook.created webhook.deleted webhook.delivery_failed webhook.disabled
webhook.recovery_requested webhook.resend_requested webhook.secret_rotated webhook.test_requested
webhook.updated write.refusals_omitted write.refused
"""
"""The events of 0.1.0, which are those of the first language: a list that never grows."""


def test_an_event_that_is_not_of_the_first_language_says_since_when_it_is() -> None:
    first = {row.event.TOPIC.removesuffix("/1") for row in EVENT_TABLE if row.since == 1}
    assert first - set(FIRST.split()) == set(), (
        "Give the event's row `since`: the number of the language that has it first."
    )
    read = {topic.removesuffix("/1") for topic in EnvelopeMapper().topics_of(EVENTS)}
    assert set(FIRST.split()) - read == set(), "ledgers have events of the first language"
    assert max(row.since for row in EVENT_TABLE) == LANGUAGE, (
        "Raise LANGUAGE in engine/values/event_table.py once for a release's new events, "
        "to their `since`."
    )


def named(name: str) -> dict[str, object]:
    return fact("directory.named", "WS-26-000001", {"name": name})


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> int:
    """The next language, which has an event that this one does not have."""
    monkeypatch.setitem(SINCE, DirectoryNamed, LANGUAGE + 1)
    return LANGUAGE + 1


def beat_of(ledger: Ledger, language: int, node: str = "0123456789abcdef") -> None:
    with psycopg.connect(ledger.conninfo) as connection:
        beat(connection, node, __version__, "all", None)
        says = "UPDATE ledger.node SET language = %s WHERE node_id = %s"
        connection.execute(says, (language, node))


def test_a_newer_event_is_refused_while_an_older_node_beats(own_ledger: Ledger, newer: int) -> None:
    line = own_ledger.line("capacity")
    beat_of(own_ledger, newer)
    beat_of(own_ledger, LANGUAGE, "fedcba9876543210")
    check_in = fact("execution.checked_in", line, {"hours": 1})
    refused, accepted = own_ledger.report(named("Sales"), check_in)
    assert (refused.outcome, refused.code) == ("refused", "unavailable")
    assert accepted.outcome == "recorded", "an older event harms nobody"
    silence = f"UPDATE ledger.node SET beaten_at = beaten_at - interval '{LIVING_SECONDS} s'"
    with psycopg.connect(own_ledger.conninfo) as connection:
        connection.execute(f"{silence} WHERE node_id = 'fedcba9876543210'".encode())
    (recorded,) = own_ledger.report(named("Sales"))
    assert recorded.outcome == "recorded", "the older node beats no more"


def test_a_newer_event_is_recorded_where_no_node_beats(own_ledger: Ledger, newer: int) -> None:
    (recorded,) = own_ledger.report(named("Sales"))
    assert recorded.outcome == "recorded"


def test_a_beat_tells_the_language(own_ledger: Ledger) -> None:
    with psycopg.connect(own_ledger.conninfo) as connection:
        beat(connection, "0123456789abcdef", __version__, "all", None)
        found = connection.execute("SELECT language FROM ledger.node").fetchall()
    assert found == [(LANGUAGE,)]
