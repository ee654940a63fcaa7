"""An erasure in the log: with its key's end, once, and what later facts about the run keep."""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ledger.application import new_events
from ledger.application.command import Command
from ledger.application.commands.runs import EraseRun
from ledger.application.report import command_of
from ledger.intake import envelope
from ledger.intake.request import Outcome, Receipt
from tests.conftest import MASTER_KEY
from tests.support.canary import stored_rows, tables_with
from tests.support.dying import DyingLateRecorder, DyingRecorder, dying
from tests.support.facts import encode, fact
from tests.support.ledger import NARROW, REPORTER, STRANGER, Ledger, new_id, working
from tests.support.racers import now

CANARY = "CANARY-9c41"


@pytest.fixture
def twin(ledger: Ledger) -> Iterator[Ledger]:
    """A second writer over the same database, with a memory of its own."""
    ledger.projector._disconnect()
    with working(ledger.conninfo, ledger.settings, ledger.clock) as second:
        yield second


def begun(ledger: Ledger, line: str | None = None, **attributes: Any) -> str:
    """A run that has begun with an input."""
    given = {"service_line_id": line or ledger.line(), "input": CANARY}
    (item,) = ledger.accept(fact("run.started", new_id("RUN"), given, **attributes))
    return str(item.subject)


def failed(run: str, **attributes: Any) -> dict[str, Any]:
    """An ending that says as much as there can be."""
    said = {"output": CANARY, "error": {"code": CANARY, "message": CANARY}, "tokens_used": 7}
    return fact("run.failed", run, said, **attributes)


def key_row(ledger: Ledger, run: str) -> tuple[bool, Any]:
    """(whether its key is there, since when it is not)."""
    (row,) = ledger.rows("SELECT wrapped, destroyed_at FROM ledger.run_key WHERE run_id = %s", run)
    return row["wrapped"] is not None, row["destroyed_at"]


def decide(ledger: Ledger, *commands: Any) -> Sequence[Outcome]:
    """The outcomes of facts and erasures of one group; a run's id stands for its erasure."""
    made: list[Command] = [
        EraseRun(one, REPORTER, reason="asked for")
        if isinstance(one, str)
        else command_of(envelope.from_structured(encode(one)), REPORTER)
        for one in commands
    ]
    return ledger.writer.submit(made).result(20)


def test_the_event_and_the_end_of_the_key_are_of_one_moment(ledger: Ledger) -> None:
    run = begun(ledger)
    ledger.accept(failed(run))
    keys = ledger.writer._cache.run_keys
    assert (key_row(ledger, run), keys[run] is None) == ((True, None), False)
    ledger.clock.advance(minutes=1)
    item = ledger.erase(run)
    assert keys[run] is None
    event = ledger.events(run)[-1]
    assert (event["topic"], event["notification_id"]) == ("run.erased/1", item.position)
    assert event["state"]["body"] == {"reason": "asked for"}
    assert event["state"]["occurred_at"] == ledger.at()
    assert event["state"]["actor"] == {"type": "api_key", "id": REPORTER.id}
    assert key_row(ledger, run) == (False, ledger.clock.now)
    assert event["state"].get("fact") is None


def test_again_records_nothing_and_changes_nothing(ledger: Ledger) -> None:
    run = begun(ledger)
    ledger.accept(failed(run))
    ledger.erase(run)
    before = ledger.head(), key_row(ledger, run)
    ledger.clock.advance(minutes=1)
    item = ledger.erase(run, reason="another")
    assert (item.outcome, item.event_ids) == ("duplicate", ())
    assert (ledger.head(), key_row(ledger, run)) == before


def test_what_is_refused_destroys_nothing(ledger: Ledger) -> None:
    run = begun(ledger)
    assert ledger.erase(run).refusal == (409, "invalid_state")
    ledger.accept(failed(run))
    for by in (STRANGER, NARROW):
        assert ledger.erase(run, by).refusal == (404, "not_found")
    for unknown in (new_id("RUN"), ledger.line()):
        assert ledger.erase(unknown).refusal == (404, "not_found")
    assert key_row(ledger, run) == (True, None)


@pytest.mark.parametrize("by", ["erasing", "other"])
def test_a_late_ending_is_recorded_without_its_payloads(
    ledger: Ledger, twin: Ledger, by: str
) -> None:
    """The other process has the key in memory, from before the erasure, and hears of nothing."""
    late, line = ledger.at(minutes=1), ledger.line()
    run = begun(twin, line, time=ledger.at())
    ledger.clock.advance(minutes=5)
    ledger.accept(fact("service_line.closed", line))
    assert ledger.erase(run).outcome == "recorded"
    writer = ledger if by == "erasing" else twin
    assert writer.refusal(failed(run)) == (409, "invalid_state")
    ending = failed(run, time=late)
    (first,) = writer.accept(ending)
    body = ledger.events(run)[-1]["state"]["body"]
    assert body == {"tokens_used": 7, "duration_ms": 60_000, "late": True}
    # Sent again, with whatever content and whichever way it comes: it was recorded.
    for other in (ledger, twin):
        for again in (ending, ending | {"data": {"output": "other"}}):
            (item,) = other.report(again)
            assert (item.outcome, item.event_ids) == ("duplicate", first.event_ids)
    assert twin.shown_run(run)["status"] == "failed"
    assert tables_with(stored_rows(ledger.conninfo), CANARY) == []


def test_facts_from_before_are_repeated_whatever_they_say(ledger: Ledger, twin: Ledger) -> None:
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
    monkeypatch.setattr(new_events, "_AHEAD", ahead)
    line, run, late = ledger.line(), new_id("RUN"), ledger.at(seconds=-1)
    start = fact("run.started", run, {"service_line_id": line, "input": CANARY}, time=late)
    closed = fact("service_line.closed", line)
    ending = failed(run, time=late)
    outcomes = decide(ledger, start, run, closed, run, run, ending, ending | {"data": {}}, start)
    said = [isinstance(one, Receipt) and one.duplicate for one in outcomes]
    assert isinstance(outcomes[1], Exception)
    assert said == [False, False, False, False, True, False, True, True]
    assert ledger.topics(run) == ["run.started", "run.cancelled", "run.erased", "run.failed"]
    assert key_row(ledger, run)[0] is False
    assert ledger.events(run)[-1]["state"]["body"].keys() == {"tokens_used", "duration_ms", "late"}


def test_a_kill_leaves_both_or_neither(ledger: Ledger) -> None:
    killed = {begun(ledger): recorder for recorder in (DyingRecorder, DyingLateRecorder)}
    processes = []
    for run, recorder in killed.items():
        ledger.accept(failed(run))
        command = EraseRun(run, REPORTER, reason="asked for")
        processes.append(dying(recorder, ledger.conninfo, MASTER_KEY, now, command))
    for process in processes:
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    for run, recorder in killed.items():
        is_erased = recorder is DyingLateRecorder
        assert ("run.erased" in ledger.topics(run)) is is_erased
        assert key_row(ledger, run)[0] is not is_erased
        # Whoever sends it again finds it done, or does it.
        assert ledger.erase(run).outcome == ("duplicate" if is_erased else "recorded")
