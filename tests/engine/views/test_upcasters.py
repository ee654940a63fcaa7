"""An event of an older class is read as one of the class in its place, by folds and by views."""

from datetime import timedelta
from typing import Any

import pytest
from eventsourcing.persistence import MapperDeserialisationError

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.values.recorded import Event
from ledger.engine.views.projector import Projector
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.compare import Difference
from ledger.features.lines.model.execution_events import CheckedIn, Woken
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import running_writer
from tests.support.rebuilding import ignore_progress, verify_all
from tests.support.sealing import vandalize
from tests.support.views import query, report, until
from tests.whole.golden.samples import envelope, file_of


class CheckedInByMinutes(Event, frozen=True, kw_only=True):
    """A check-in as an older version would have recorded it. (No version did.)"""

    TOPIC = "execution.checked_in/0"
    minutes: int
    note: str | None = None
    resource_id: str | None = None


def to_hours(old: CheckedInByMinutes) -> CheckedIn:
    return CheckedIn(hours=old.minutes / 60, note=old.note, resource_id=old.resource_id)


MAPPER = EnvelopeMapper({CheckedInByMinutes: (CheckedIn, to_hours)})

NEW, OLD = b'"hours":7.25', b'"minutes":435'
SAMPLE = file_of(CheckedIn.TOPIC).read_bytes().replace(NEW, OLD)


def decoded(mapper: EnvelopeMapper) -> Any:
    return mapper.decode("LIN-26-084729", 7, CheckedInByMinutes.TOPIC, SAMPLE, 42)


def test_an_older_event_is_decoded_as_one_of_the_class_in_its_place() -> None:
    assert OLD in SAMPLE
    body = CheckedIn(hours=7.25, note="Sprint", resource_id="SCR-128491")
    assert decoded(MAPPER) == envelope(body)
    with pytest.raises(MapperDeserialisationError, match=r"checked_in/0 at position 42"):
        decoded(EnvelopeMapper())


def test_an_older_event_that_cannot_be_read_is_named_by_its_position() -> None:
    with pytest.raises(MapperDeserialisationError, match="position 42"):
        MAPPER.decode(LINE, 7, CheckedInByMinutes.TOPIC, SAMPLE.replace(OLD, b'"hours":1'), 42)


def test_the_topics_of_a_class_include_those_of_the_older_classes_that_it_replaced() -> None:
    assert MAPPER.topics_of([Woken]) == {Woken.TOPIC: Woken}
    both = {CheckedIn.TOPIC: CheckedIn, CheckedInByMinutes.TOPIC: CheckedIn}
    assert MAPPER.topics_of([CheckedIn]) == both


def store_as(conninfo: str, topic: str, old: bytes, new: bytes) -> None:
    """Rewrite the check-in in the log, as another version would have stored it."""
    state = f"replace(encode(state, 'escape'), '{old.decode()}', '{new.decode()}')"
    vandalize(
        conninfo,
        f"UPDATE ledger.ledger_events SET topic = '{topic}', state = decode({state}, 'escape')"
        " WHERE topic LIKE 'execution.checked_in/%'",
    )


def test_views_show_an_older_event_as_that_of_today(conninfo: str) -> None:
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        report(writer, activation(), fact("execution.checked_in", LINE, {"hours": 7.25}))
    store_as(conninfo, CheckedInByMinutes.TOPIC, NEW, OLD)
    projector = Projector(conninfo, MAPPER, projections(), Candidate(locks.FOLLOWING))
    try:
        until(projector.lead, "the lead")
        while projector.run_once():
            pass
    finally:
        projector.disconnect()
    named: list[Difference] = []
    for projection in projections():
        rebuilding.verify(conninfo, MAPPER, projection, ignore_progress, named.append)
    assert named == []
    rebuilding.rebuild(conninfo, MAPPER, projections()[0], ignore_progress)
    # With the event of today in the log, every view has the rows that this version makes.
    store_as(conninfo, CheckedIn.TOPIC, OLD, NEW)
    assert query(conninfo, "SELECT topic FROM ledger.ledger_events")[-1] == (CheckedIn.TOPIC,)
    assert verify_all(conninfo) == []
