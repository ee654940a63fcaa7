"""A group of commands in one append: each has its own outcome, whatever the others do.

The events are all written at the end or, as in large groups, some of them while later commands are
still decided.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ledger.app.composition.writing import create_writer
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.values.errors import InvalidState, NotFound, Unavailable
from ledger.engine.writer import group
from ledger.engine.writer.command import Command, OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.runs.model.run import Run
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import LINE, RUN, activation, fact
from tests.support.log_checker import check
from tests.support.racing_writers import parsed, principal, running_writer

# The database refuses the event of the fact with this id, whatever the command decided.
FORBIDDEN = """
CREATE FUNCTION ledger.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'forbidden'; END $$;
CREATE TRIGGER forbidden BEFORE INSERT ON ledger.ledger_events
FOR EACH ROW WHEN (position('"forbidden"' IN NEW.state) > 0) EXECUTE FUNCTION ledger.refuse()
"""

REPORTER = principal("reporter")
EARLIER = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
"""A time before any closing of a test: a late report of this time still counts."""


class Breaks(OwnCommand):
    """A command with a bug in it."""

    def __init__(self, *, after_recording: bool) -> None:
        super().__init__(REPORTER)
        self._after_recording = after_recording

    def streams(self) -> Iterable[str]:
        return (LINE,)

    def decide(self, group: Group) -> Receipt:
        if self._after_recording:
            report(fact("service_line.updated", LINE, {"project_tags": ["no"]})).decide(group)
        raise RuntimeError("nobody thought of this")


class ReadsRun(OwnCommand):
    """A command that loads a run outside the streams that it names, and changes nothing."""

    def __init__(self) -> None:
        super().__init__(REPORTER)
        self.found: list[tuple[int, str]] = []

    def decide(self, group: Group) -> Receipt:
        run = group.memory.find(RUN)
        assert isinstance(run, Run)
        self.found.append((run.version, run.status))
        return Receipt(RUN, (), 0)


@pytest.fixture(autouse=True, params=[None, 1], ids=["at the end", "ahead"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set after how many events a group begins to write them: by default at its end."""
    if request.param is not None:
        monkeypatch.setattr(group, "_AHEAD", request.param)


def report(event: dict[str, Any]) -> Command:
    return command_of(parsed(event), REPORTER)


def tags(*words: str) -> Command:
    return report(fact("service_line.updated", LINE, {"project_tags": list(words)}))


def submit(writer: Writer, *commands: Command) -> list[Outcome]:
    return writer.submit(commands).result(10)


def recorded(outcomes: Iterable[Outcome]) -> list[bool]:
    return [isinstance(outcome, Receipt) for outcome in outcomes]


def test_a_refused_command_affects_no_other_command_of_its_group(
    writer: Writer, conninfo: str
) -> None:
    outcomes = submit(
        writer,
        report(fact("service_line.paused", "LIN-26-000404")),
        report(activation()),
        report(fact("service_line.resumed", LINE)),
        report(fact("run.started", RUN, {"service_line_id": LINE})),
        report(fact("run.started", RUN, {"service_line_id": LINE})),
        tags("kept"),
    )
    assert recorded(outcomes) == [False, True, False, True, False, True]
    assert isinstance(outcomes[0], NotFound)
    assert isinstance(outcomes[2], InvalidState)
    assert isinstance(outcomes[4], InvalidState)
    log = check(conninfo)
    assert log.findings == []
    # Each refusal leaves its record in the same append, and nothing else.
    assert log.topics["write.refused/1"] == 3
    assert sum(log.topics.values()) == 3 + 3


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("after_recording", [False, True])
def test_a_command_that_raises_an_unexpected_error_fails_alone(
    writer: Writer, conninfo: str, after_recording: bool
) -> None:
    outcomes = submit(
        writer,
        report(activation()),
        Breaks(after_recording=after_recording),
        report(fact("run.started", RUN, {"service_line_id": LINE})),
        tags("kept"),
    )
    assert recorded(outcomes) == [True, False, True, True]
    assert isinstance(outcomes[1], Unavailable)
    # The event that the command recorded before its error is neither in the log nor in memory.
    assert recorded(submit(writer, tags("more"))) == [True]
    log = check(conninfo)
    assert log.findings == []
    assert sum(log.topics.values()) == 4


@pytest.mark.filterwarnings("default")
def test_a_command_whose_event_the_database_refuses_fails_alone(
    writer: Writer, conninfo: str
) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(FORBIDDEN)
    outcomes = submit(
        writer,
        report(activation()),
        tags("kept"),
        report(fact("service_line.paused", LINE) | {"id": "forbidden"}),
        report(fact("run.started", RUN, {"service_line_id": LINE})),
        tags("kept", "too"),
    )
    assert recorded(outcomes) == [True, True, False, True, True]
    assert isinstance(outcomes[2], Unavailable)
    # The line has the log's state: it is not paused.
    assert isinstance(submit(writer, report(fact("service_line.resumed", LINE)))[0], InvalidState)
    log = check(conninfo)
    assert log.findings == []
    assert sum(log.topics.values()) == 4 + 1


def test_a_duplicate_in_a_group_that_failed_is_answered_from_the_log_not_from_memory(
    writer: Writer,
) -> None:
    submit(writer, report(activation()))
    pause = report(fact("service_line.paused", LINE))
    outcomes = submit(writer, pause, Breaks(after_recording=True), pause)
    assert recorded(outcomes) == [True, False, True]
    first, _, again = outcomes
    assert isinstance(first, Receipt)
    assert isinstance(again, Receipt)
    assert (again.duplicate, again.position) == (True, first.position)


@pytest.mark.parametrize("requested_earlier", [False, True])
def test_a_run_started_in_the_group_that_closed_its_line_still_accepts_its_late_end(
    writer: Writer, requested_earlier: bool
) -> None:
    start = report(fact("run.started", RUN, {"service_line_id": LINE}, time=EARLIER))
    submit(writer, report(activation(time=EARLIER)))
    if requested_earlier:
        submit(writer, report(fact("run.requested", RUN, {"service_line_id": LINE}, time=EARLIER)))
    close = report(fact("service_line.closed", LINE))
    late = report(fact("run.completed", RUN, {}, time=EARLIER))
    assert recorded(submit(writer, start, close, late)) == [True, True, True]


def test_a_command_sees_a_run_as_changed_by_an_earlier_command_of_its_group(
    writer: Writer, conninfo: str
) -> None:
    submit(
        writer, report(activation()), report(fact("run.started", RUN, {"service_line_id": LINE}))
    )
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as other:  # remembers no run
        reading = ReadsRun()
        submit(other, report(fact("service_line.closed", LINE)), reading, reading)
    assert reading.found == [(2, "cancelled")] * 2


def test_all_events_of_a_group_are_written_when_its_last_command_records_none(
    writer: Writer, conninfo: str
) -> None:
    begun = fact("run.requested", RUN, {"service_line_id": LINE})
    *_, first, again = submit(writer, report(activation()), report(begun), report(begun))
    assert isinstance(first, Receipt)
    assert isinstance(again, Receipt)
    assert (again.duplicate, again.event_ids) == (True, first.event_ids)
    with psycopg.connect(conninfo) as connection:
        stored = connection.execute("SELECT line_id, open_runs FROM ledger.line_activity")
        assert stored.fetchall() == [(LINE, 1)]


def test_commands_beyond_the_queues_limit_are_refused_at_once(conninfo: str) -> None:
    log = Log(conninfo)
    try:
        busy = create_writer(
            Settings(master_key=MASTER_KEY), log
        )  # never started: all commands wait
        for _ in range(2):
            busy.submit([tags()] * 10_000)
        with pytest.raises(Unavailable, match="busy"):
            busy.submit([tags()])
    finally:
        log.close()


def test_a_caller_who_gave_up_waiting_does_not_end_the_writer(writer: Writer) -> None:
    submit(writer, report(activation()))
    abandoned: Future[list[Outcome]] = writer.submit([tags("nobody", "waits")])
    abandoned.cancel()
    assert recorded(writer.submit([tags("after")]).result(1.5)) == [True]
