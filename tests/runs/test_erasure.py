"""An erasure: one event in the append that destroys the run's key; later facts keep no payload."""

import base64
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ledger.engine.log.vault import content_digest
from ledger.engine.writer import group
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.runs.commands import EraseRun
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import encode, fact
from tests.support.killed_processes import (
    KilledAfterCommit,
    KilledBeforeCommit,
    start_killed_process,
)
from tests.support.ledger import NARROW, REPORTER, STRANGER, Ledger, new_id, working
from tests.support.memory import count_keys_of
from tests.support.plaintext import stored_rows, tables_with
from tests.support.racing_writers import now

CANARY = "CANARY-9c41"


@pytest.fixture
def twin(ledger: Ledger) -> Iterator[Ledger]:
    """A second writer over the same database, with a memory of its own."""
    ledger.projector.disconnect()
    with working(ledger.conninfo, ledger.settings, ledger.clock) as second:
        yield second


def started_run(ledger: Ledger, line: str | None = None, **attributes: Any) -> str:
    """Start a run that has an input, and return its id."""
    data = {"service_line_id": line or ledger.line(), "input": CANARY}
    (item,) = ledger.accept(fact("run.started", new_id("RUN"), data, **attributes))
    return str(item.subject)


def failed(run: str, **attributes: Any) -> dict[str, Any]:
    """The fact that a run failed, with an output, an error and tokens."""
    data = {"output": CANARY, "error": {"code": CANARY, "message": CANARY}, "tokens_used": 7}
    return fact("run.failed", run, data, **attributes)


def key_row(ledger: Ledger, run: str) -> tuple[bool, Any]:
    """(whether the run's key exists, when the key was destroyed)."""
    (row,) = ledger.rows("SELECT wrapped, destroyed_at FROM ledger.run_key WHERE run_id = %s", run)
    return row["wrapped"] is not None, row["destroyed_at"]


def decide(ledger: Ledger, *commands: Any) -> Sequence[Outcome]:
    """The outcomes of facts and erasures of one group; a run's id stands for its erasure."""
    group: list[Command] = [
        EraseRun(command, REPORTER, reason="asked for")
        if isinstance(command, str)
        else command_of(envelope.from_structured(encode(command)), REPORTER)
        for command in commands
    ]
    return ledger.writer.submit(group).result(20)


def test_an_erasure_records_its_event_and_destroys_the_key_at_the_same_instant(
    ledger: Ledger,
) -> None:
    run = started_run(ledger)
    ledger.accept(failed(run))
    first = ledger.events(run)[0]["state"]
    assert (key_row(ledger, run), count_keys_of(first)) == ((True, None), 1)
    ledger.clock.advance(minutes=1)
    item = ledger.erase(run)
    assert count_keys_of(first) == 0
    event = ledger.events(run)[-1]
    assert (event["topic"], event["notification_id"]) == ("run.erased/1", item.position)
    assert event["state"]["body"] == {"reason": "asked for"}
    assert event["state"]["occurred_at"] == ledger.at()
    assert event["state"]["actor"] == {"type": "api_key", "id": REPORTER.id}
    assert key_row(ledger, run) == (False, ledger.clock.now)
    assert event["state"].get("fact") is None


def test_a_repeated_erasure_records_and_changes_nothing(ledger: Ledger) -> None:
    run = started_run(ledger)
    ledger.accept(failed(run))
    ledger.erase(run)
    before = ledger.head(), key_row(ledger, run)
    ledger.clock.advance(minutes=1)
    item = ledger.erase(run, reason="another")
    assert (item.outcome, item.event_ids) == ("duplicate", ())
    assert (ledger.head(), key_row(ledger, run)) == before


def test_a_refused_erasure_destroys_no_key(ledger: Ledger) -> None:
    run = started_run(ledger)
    assert ledger.erase(run).refusal == (409, "invalid_state")
    ledger.accept(failed(run))
    for by in (STRANGER, NARROW):
        assert ledger.erase(run, by).refusal == (404, "not_found")
    for unknown in (new_id("RUN"), ledger.line()):
        assert ledger.erase(unknown).refusal == (404, "not_found")
    assert key_row(ledger, run) == (True, None)


@pytest.mark.parametrize("by", ["erasing", "other"])
def test_a_late_ending_of_an_erased_run_is_recorded_without_its_payloads(
    ledger: Ledger, twin: Ledger, by: str
) -> None:
    """The other process still has the key in memory, and is not notified of the erasure."""
    late, line = ledger.at(minutes=1), ledger.line()
    run = started_run(twin, line, time=ledger.at())
    ledger.clock.advance(minutes=5)
    ledger.accept(fact("service_line.closed", line))
    assert ledger.erase(run).outcome == "recorded"
    writer = ledger if by == "erasing" else twin
    assert writer.refusal(failed(run)) == (409, "invalid_state")
    ending = failed(run, time=late)
    (first,) = writer.accept(ending)
    body = ledger.events(run)[-1]["state"]["body"]
    assert body == {"tokens_used": 7, "duration_ms": 60_000, "late": True}
    # The same fact sent again is a duplicate, through either writer and whatever its content.
    for other in (ledger, twin):
        for again in (ending, ending | {"data": {"output": "other"}}):
            (item,) = other.report(again)
            assert (item.outcome, item.event_ids) == ("duplicate", first.event_ids)
    assert twin.run_view(run)["status"] == "failed"
    assert tables_with(stored_rows(ledger.conninfo), CANARY) == []


def test_the_digest_of_an_erased_runs_late_ending_tells_nothing_of_its_content(
    ledger: Ledger,
) -> None:
    """Nothing keyed is left to compare with, and a plain hash would let the payload be guessed."""
    late, line = ledger.at(minutes=1), ledger.line()
    run = started_run(ledger, line, time=ledger.at())
    ledger.clock.advance(minutes=5)
    ledger.accept(fact("service_line.closed", line))
    ledger.erase(run)
    ending = failed(run, time=late)
    sent = envelope.from_structured(encode(ending))
    assert isinstance(sent, envelope.Fact)
    ledger.accept(ending)
    stored = base64.b64decode(ledger.events(run)[-1]["state"]["fact"]["digest"])
    assert len(stored) == 32
    assert stored != content_digest(sent.content)


def test_earlier_facts_of_an_erased_run_are_duplicates_whatever_their_content(
    ledger: Ledger, twin: Ledger
) -> None:
    start = fact("run.started", new_id("RUN"), {"service_line_id": ledger.line(), "input": CANARY})
    (first,) = twin.accept(start)
    run = str(first.subject)
    ledger.accept(failed(run))
    assert ledger.refusal(start | {"data": {}}) == (409, "fact_conflict")
    ledger.erase(run)
    for writer in (ledger, twin):
        for again in (start, start | {"data": {}}, start | {"type": "run.cancelled"}):
            (item,) = writer.report(again)
            assert (item.outcome, item.event_ids) == ("duplicate", first.event_ids)


@pytest.mark.parametrize("ahead", [1, 200])
def test_a_run_may_begin_end_and_be_erased_in_one_append(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(group, "_AHEAD", ahead)
    line, run, late = ledger.line(), new_id("RUN"), ledger.at(seconds=-1)
    start = fact("run.started", run, {"service_line_id": line, "input": CANARY}, time=late)
    closed = fact("service_line.closed", line)
    ending = failed(run, time=late)
    outcomes = decide(ledger, start, run, closed, run, run, ending, ending | {"data": {}}, start)
    duplicates = [isinstance(outcome, Receipt) and outcome.duplicate for outcome in outcomes]
    assert isinstance(outcomes[1], Exception)
    assert duplicates == [False, False, False, False, True, False, True, True]
    assert ledger.topics(run) == ["run.started", "run.cancelled", "run.erased", "run.failed"]
    assert key_row(ledger, run)[0] is False
    assert ledger.events(run)[-1]["state"]["body"].keys() == {"tokens_used", "duration_ms", "late"}


def test_a_kill_leaves_both_the_erasure_and_the_destroyed_key_or_neither(ledger: Ledger) -> None:
    killed = {started_run(ledger): log for log in (KilledBeforeCommit, KilledAfterCommit)}
    processes = []
    for run, log in killed.items():
        ledger.accept(failed(run))
        command = EraseRun(run, REPORTER, reason="asked for")
        processes.append(start_killed_process(log, ledger.conninfo, MASTER_KEY, now, command))
    for process in processes:
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    for run, log in killed.items():
        is_erased = log is KilledAfterCommit
        assert ("run.erased" in ledger.topics(run)) is is_erased
        assert key_row(ledger, run)[0] is not is_erased
        # The same erasure, sent again, is a duplicate or is carried out now.
        assert ledger.erase(run).outcome == ("duplicate" if is_erased else "recorded")
