"""The projector against a real log and a real database."""

import os
import signal
import threading
import time
from typing import Any

import psycopg
import pytest

from ledger.engine.views.projector import LostLead, Projector
from ledger.engine.views.rounds import Elsewhere
from ledger.engine.writer.writer import Writer
from projections.lines.view import ExecutionView
from projections.runs.view import RunView
from tests.support.facts import LINE, activation, fact
from tests.support.forked import CONTEXT
from tests.support.rebuilding import NAMES
from tests.support.views import (
    HandProjector,
    KilledRunView,
    folded,
    following,
    head,
    projecting,
    query,
    report,
    stored,
    until,
    view_positions,
)


def checked_in(hours: float) -> dict[str, Any]:
    return fact("execution.checked_in", LINE, {"hours": hours})


def run(number: int, kind: str = "run.started", **data: Any) -> dict[str, Any]:
    if kind == "run.started":
        data["service_line_id"] = LINE
    return fact(kind, f"RUN-26-{900_000 + number:06d}", data)


def test_catching_up_gives_the_rows_that_folding_by_hand_gives(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), run(1, input={"a": 1}), checked_in(1.5))
    with projecting(conninfo) as projector:
        projector.catch_up()
        report(writer, run(2), run(1, "run.completed", tokens_used=7), checked_in(2.25))
        report(writer, fact("service_line.closed", LINE))
        projector.catch_up()
    assert stored(conninfo) == folded(conninfo)
    assert view_positions(conninfo) == dict.fromkeys(NAMES, (head(conninfo), False))


def test_a_batch_that_loses_its_connection_leaves_neither_rows_nor_a_moved_tracking(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), run(1), run(2), run(3))
    view = KilledRunView(conninfo)
    with projecting(conninfo, ExecutionView(), view) as projector:
        with pytest.raises(psycopg.OperationalError):
            projector.run_once()
        assert view.killed
        assert query(conninfo, "SELECT count(*) FROM ledger.run") == [(0,)]
        assert view_positions(conninfo)["run"] == (0, False)
        # The other view has all of its batch or nothing, and its tracking agrees.
        (lines,) = query(conninfo, "SELECT count(*) FROM ledger.execution")
        assert (lines[0], view_positions(conninfo)["execution"][0]) in ((0, 0), (1, head(conninfo)))
        projector.disconnect()
        assert projector.lead()
        projector.catch_up()
    assert stored(conninfo) == folded(conninfo)


def test_a_projector_that_loses_its_connection_amid_a_batch_catches_up_by_itself(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), run(1), run(2), run(3))
    view = KilledRunView(conninfo)
    with following(conninfo, ExecutionView(), view):
        until(
            lambda: view_positions(conninfo).get("run") == (head(conninfo), False), "the catch-up"
        )
    assert view.killed
    assert stored(conninfo) == folded(conninfo)


def test_a_projector_that_waits_for_events_stops_at_once(
    conninfo: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.engine.views.projector._IDLE_SECONDS", 60.0)
    report(writer, activation())
    with following(conninfo):
        until(lambda: view_positions(conninfo)["run"] == (head(conninfo), False), "the view")
        began = time.monotonic()
    assert time.monotonic() - began < 30


def test_a_projector_that_loses_its_connection_while_it_starts_over_goes_on(
    conninfo: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def start_over(_: Projector, __: object) -> None:
        if not lost:
            raise LostLead("a view was rebuilt")

    def lose(_: Projector) -> bool:
        lost.append("the connection")
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(Projector, "_assert_generations", start_over)
    monkeypatch.setattr(Projector, "_is_superseded", lose)
    with following(conninfo):
        until(lambda: lost, "the loss")
        report(writer, activation(), run(1))
        until(lambda: view_positions(conninfo)["run"][0] == head(conninfo), "the catch-up", 5.0)


def _lead_for_ever(conninfo: str, leading: Any) -> None:
    projector = HandProjector(conninfo)
    projector.start()
    until(lambda: "run" in view_positions(conninfo), "the first views")
    leading.set()
    threading.Event().wait(60)


def test_another_projector_stands_by_and_takes_over_when_the_first_is_killed(
    conninfo: str, writer: Writer
) -> None:
    leading = CONTEXT.Event()
    first = CONTEXT.Process(target=_lead_for_ever, args=(conninfo, leading))
    first.start()
    try:
        assert leading.wait(30)
        with following(conninfo):
            report(writer, activation(), run(1))
            until(
                lambda: view_positions(conninfo)["run"][0] == head(conninfo), "the first projector"
            )
            third = HandProjector(conninfo)
            assert not third.lead()
            third.disconnect()
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            report(writer, run(2), run(1, "run.completed"))
            until(
                lambda: view_positions(conninfo)["run"][0] == head(conninfo),
                "the second projector",
                5.0,
            )
    finally:
        first.kill()
        first.join()
    assert stored(conninfo) == folded(conninfo)


def test_a_projector_whose_tracking_another_has_moved_goes_on_from_there_and_folds_nothing_twice(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), checked_in(1), run(1))
    with projecting(conninfo) as first:
        first.catch_up()
        first.give_up_lock()
        with projecting(conninfo) as second:
            report(writer, checked_in(2), run(2))
            second.catch_up()
            assert first.run_once()
            report(writer, checked_in(4))
            first.catch_up()
            second.catch_up()
    assert stored(conninfo) == folded(conninfo)


def test_two_projectors_that_both_think_they_lead_never_fold_an_event_twice(
    conninfo: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(writer, activation())
    met: list[str] = []
    done = threading.Event()
    advance = Projector._advance_together

    def notes_meetings(projector: Any, *batch: Any) -> bool:
        try:
            return advance(projector, *batch)
        except Elsewhere as error:
            met.append(str(error))
            raise

    monkeypatch.setattr(Projector, "_advance_together", notes_meetings)

    def follow(projector: HandProjector) -> None:
        finished = False
        while not finished:
            finished = done.is_set()
            finished = not projector.run_once() and finished

    projectors = [HandProjector(conninfo), HandProjector(conninfo)]
    for projector in projectors:
        assert projector.lead()
        projector.give_up_lock()
    threads = [threading.Thread(target=follow, args=(each,)) for each in projectors]
    for thread in threads:
        thread.start()
    for number in range(80):
        report(writer, checked_in(1), run(number + 10))
    done.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for projector in projectors:
        projector.disconnect()
    assert met, "the two projectors never met"
    assert view_positions(conninfo)["execution"] == (head(conninfo), False)
    assert stored(conninfo) == folded(conninfo)


def test_a_view_that_is_far_behind_holds_no_other_view_back(conninfo: str, writer: Writer) -> None:
    report(writer, activation(), *(checked_in(1) for _ in range(2100)))
    with projecting(conninfo, ExecutionView()) as projector:
        projector.catch_up()
    with projecting(conninfo, ExecutionView(), RunView()) as projector:
        report(writer, checked_in(1))
        projector.run_once()
        assert view_positions(conninfo)["execution"] == (head(conninfo), False)


def test_large_events_and_large_lines_are_sent_part_by_part(conninfo: str, writer: Writer) -> None:
    text = "x" * 200_000
    report(writer, activation(), *(blocked(name, text) for name in "ab"))
    # Each change stores 400 KB anew: in all far more than is read or gathered at once.
    changes = [tags(str(number)) for number in range(30)]
    report(
        writer, *changes, *(fact("execution.checked_in", LINE, {"note": text}) for _ in range(90))
    )
    with projecting(conninfo) as projector:
        assert 0 < projector.run_once() < head(conninfo)
        projector.catch_up()
    assert stored(conninfo) == folded(conninfo)
    ((versions, size),) = query(
        conninfo, "SELECT count(*), sum(length(extra)) FROM ledger.execution_version"
    )
    assert versions == 33
    assert size > 30 * 400_000


def test_a_day_grows_with_its_check_ins_not_with_their_square(
    conninfo: str, writer: Writer
) -> None:
    data = [{"hours": 1, "resource_id": f"{number:0200}"} for number in range(300)]
    report(writer, activation(), *(fact("execution.checked_in", LINE, one) for one in data))
    with projecting(conninfo) as projector:
        projector.catch_up()
    ((rows, size),) = query(
        conninfo, "SELECT count(*), sum(pg_column_size(d)) FROM ledger.execution_day AS d"
    )
    assert rows == 300
    assert size < 300 * 400


def blocked(name: str, reason: str) -> dict[str, Any]:
    data = {"blocker_id": name, "cause": "capacity_issue", "reason": reason}
    return fact("execution.blocked", LINE, data)


def tags(*words: str) -> dict[str, Any]:
    return fact("service_line.updated", LINE, {"project_tags": list(words)})
