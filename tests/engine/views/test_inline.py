"""Small appends move the views themselves, and never depend on them."""

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.reads.positions import ViewPositions
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Recorded
from ledger.engine.views import inline
from ledger.engine.views.contract import Projection
from ledger.engine.views.generation import Generation
from ledger.engine.views.inline import InlineViews
from ledger.engine.views.rounds import apply_round
from ledger.engine.views.schema import table_of
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from projections.runs.view import RunView
from tests.support.databases import query
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import parsed, running_writer
from tests.support.rebuilding import NAMES, rebuild, verify_all, view, work
from tests.support.service import serving
from tests.support.views import (
    HandProjector,
    PoisonedRunView,
    folded,
    following,
    head,
    projecting,
    report,
    stored,
    until,
    view_positions,
)

POISON = "RUN-26-900666"


@pytest.fixture(autouse=True)
def changes_hands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "_ALONE_SECONDS", 0.0)


@contextmanager
def folding(conninfo: str, views: Sequence[Projection] | None = None) -> Iterator[Writer]:
    """A writer that moves these views, or all."""
    inline_views = InlineViews(views or projections(), EnvelopeMapper())
    with running_writer(conninfo, idle_after=timedelta(hours=1), views=inline_views) as writer:
        yield writer


@pytest.fixture
def folder(conninfo: str) -> Iterator[Writer]:
    with folding(conninfo) as writer:
        yield writer


def start(run: str) -> dict[str, Any]:
    return fact("run.started", run, {"service_line_id": LINE})


def checked_in(hours: float = 1) -> dict[str, Any]:
    return fact("execution.checked_in", LINE, {"hours": hours})


def tags(*words: str) -> dict[str, Any]:
    return fact("service_line.updated", LINE, {"project_tags": list(words)})


def all_at(position: int) -> dict[str, tuple[int, bool]]:
    return dict.fromkeys(NAMES, (position, False))


def poisoned() -> list[Projection]:
    """All views; the view of runs has a bug."""
    return [PoisonedRunView(POISON), *(view for view in projections() if view.name != "run")]


def test_a_small_append_is_visible_with_its_commit_and_without_a_projector(
    conninfo: str, folder: Writer
) -> None:
    for events in ([activation()], [start("RUN-26-900001"), checked_in()], [tags("a")]):
        report(folder, *events)
        assert view_positions(conninfo) == all_at(head(conninfo))
    assert stored(conninfo) == folded(conninfo)
    assert verify_all(conninfo) == []


def test_a_large_append_is_left_to_the_projector_and_the_next_small_one_folds_again(
    conninfo: str, folder: Writer
) -> None:
    report(folder, activation())
    before = head(conninfo)
    report(folder, *(checked_in() for _ in range(inline.MOST + 1)))
    assert view_positions(conninfo) == all_at(before)
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(before)
    with projecting(conninfo) as projector:
        projector.catch_up()
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_an_append_also_folds_the_few_events_that_others_have_left(
    conninfo: str, folder: Writer, writer: Writer
) -> None:
    report(folder, activation())
    for number in range(5):
        report(writer, start(f"RUN-26-90000{number}"))
        report(folder, checked_in())
        assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_only_an_append_that_leaves_the_views_behind_wakes_the_projector(
    conninfo: str, folder: Writer
) -> None:
    report(folder, activation())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("LISTEN ledger_events")
        connection.execute("LISTEN ledger_views")
        report(folder, checked_in())
        small = [n.channel for n in connection.notifies(timeout=20, stop_after=1)]
        report(folder, *(checked_in() for _ in range(inline.MOST + 1)))
        large = [n.channel for n in connection.notifies(timeout=20, stop_after=1)]
    assert (small, large) == (["ledger_views"], ["ledger_events"])


def test_while_others_append_a_writer_leaves_the_views_to_the_projector(
    conninfo: str, folder: Writer, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(folder, activation())
    before = head(conninfo)
    monkeypatch.setattr(inline, "_ALONE_SECONDS", 3600.0)
    report(writer, checked_in())
    report(folder, checked_in())
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(before)


@pytest.mark.parametrize("most", [inline.MOST, 0])
def test_two_folding_writers_and_a_projector_never_fold_an_event_twice(
    conninfo: str, folder: Writer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """With ``most`` 0 no writer folds: the projector alone does, beside the same appends."""
    monkeypatch.setattr(inline, "MOST", most)
    report(folder, activation())
    with folding(conninfo) as other, following(conninfo):

        def act(writer: Writer, seed: int) -> None:
            chance = random.Random(seed)
            for number in range(60):
                events = [checked_in(), start(f"RUN-26-9{seed}{number:04}"), tags(str(number))]
                report(writer, *events[: chance.choice([1, 2, 3])])

        threads = [threading.Thread(target=act, args=(w, n)) for n, w in enumerate([folder, other])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        until(lambda: view_positions(conninfo) == all_at(head(conninfo)), "the views")
    assert stored(conninfo) == folded(conninfo)
    assert verify_all(conninfo) == []


def test_every_kind_of_event_is_folded_from_memory_as_from_the_log(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, folded = EnvelopeMapper(), list[Recorded]()

    def notes_events(transaction: Any, views: Any, events: Any, *rest: Any, **more: Any) -> None:
        folded.extend(events)
        apply_round(transaction, views, events, *rest, **more)

    monkeypatch.setattr(inline, "apply_round", notes_events)
    work(conninfo, views=InlineViews(projections(), codec))
    assert len({type(event.body) for event in folded}) > 30
    for event in folded:
        stored_event = codec.to_stored_event(event)
        read = codec.decode(*_columns(stored_event), event.position)
        assert repr(read) == repr(event)
    assert verify_all(conninfo) == []


def _columns(event: Any) -> tuple[str, int, str, bytes]:
    return event.originator_id, event.originator_version, event.topic, event.state


def test_a_fold_that_fails_refuses_no_fact_and_stops_its_view_alone(
    conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    with folding(conninfo, poisoned()) as writer:
        report(writer, activation(), start("RUN-26-900001"))
        before = head(conninfo)
        report(writer, start(POISON))
        assert "a bug in the view" in caplog.text
        assert view_positions(conninfo) == all_at(before)
        with projecting(conninfo, *poisoned()) as projector:
            projector.catch_up()
        report(writer, start("RUN-26-900002"), checked_in())
        assert view_positions(conninfo) == all_at(head(conninfo)) | {"run": (before, True)}
    assert query(conninfo, "SELECT count(*) FROM ledger.ledger_events") == [(5,)]
    with projecting(conninfo) as projector:
        projector.catch_up()
    assert verify_all(conninfo) == []


def test_a_row_that_postgresql_does_not_take_refuses_no_fact(conninfo: str, folder: Writer) -> None:
    report(folder, activation())
    unlikely = "ALTER TABLE ledger.execution_g1 ADD CHECK (project_tags::text NOT LIKE '%plum%')"
    query(conninfo, unlikely)
    before = head(conninfo)
    report(folder, tags("plum"))
    assert view_positions(conninfo) == all_at(before)
    with projecting(conninfo) as projector:
        projector.catch_up()
    report(folder, start("RUN-26-900001"))
    assert view_positions(conninfo) == all_at(head(conninfo)) | {"execution": (before, True)}


def test_a_locked_table_of_a_view_delays_a_fact_but_does_not_refuse_it(
    conninfo: str, folder: Writer
) -> None:
    report(folder, activation())
    with psycopg.connect(conninfo) as altering:
        altering.execute("LOCK TABLE ledger.execution_g1 IN ACCESS EXCLUSIVE MODE")
        report(folder, checked_in())
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_a_rebuild_that_swaps_is_followed_and_facts_go_on(conninfo: str, folder: Writer) -> None:
    report(folder, activation())
    for number, name in enumerate(NAMES):
        assert rebuild(conninfo, view(name)).differing == 0
        # The first append finds another generation, and is repeated alone.
        report(folder, start(f"RUN-26-90001{number}"))
        report(folder, checked_in())
        assert view_positions(conninfo) == all_at(head(conninfo))
    events = query(conninfo, "SELECT count(*) FROM ledger.ledger_events")
    assert events == [(1 + 2 * len(NAMES),)]
    assert verify_all(conninfo) == []


def test_no_row_is_written_to_the_former_generation_while_a_reader_keeps_its_tables(
    conninfo: str, folder: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "_CHECK_SECONDS", 3600.0)
    report(folder, activation())
    with psycopg.connect(conninfo) as reader:
        for table in view("run").tables:
            reader.execute(f"SELECT FROM {table_of(table, 1)}".encode())
        rebuild(conninfo, view("run"))
        report(folder, start("RUN-26-900001"))
        report(folder, start("RUN-26-900002"))
        assert query(conninfo, "SELECT count(*) FROM ledger.run_g1") == [(0,)]
    assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_rebuilds_under_a_load_of_small_appends_lose_nothing(conninfo: str, folder: Writer) -> None:
    report(folder, activation())
    done = threading.Event()

    def act() -> None:
        while not done.is_set():
            report(folder, checked_in(), tags("a"))

    with following(conninfo):
        thread = threading.Thread(target=act)
        thread.start()
        try:
            for name in ("execution", "event", "run"):
                assert rebuild(conninfo, view(name)).differing == 0
                assert verify_all(conninfo) == []
        finally:
            done.set()
            thread.join(20)
        until(lambda: view_positions(conninfo) == all_at(head(conninfo)), "the views")
    assert verify_all(conninfo) == []


def test_an_append_does_not_wait_for_a_locked_tracking(
    conninfo: str, folder: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    report(folder, activation())
    before = head(conninfo)
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT FROM ledger.projection WHERE name = 'run' FOR UPDATE")
        report(folder, checked_in())
        report(folder, checked_in())
        assert head(conninfo) > before
        assert view_positions(conninfo) == all_at(before)
    assert caplog.records == [], "a lock was waited for"
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(head(conninfo))


class NewerRunView(RunView):
    version = RunView.version + 1


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_writer_of_another_version_writes_no_row(conninfo: str, is_cached: bool) -> None:
    """The views are of a version of the code that the writer is not, or even unknown to it."""
    others = [view for view in projections() if view.name != "run"]
    with folding(conninfo, [NewerRunView(), *others] if is_cached else others) as writer:
        report(writer, activation(), start("RUN-26-900001"))
        assert view_positions(conninfo) == all_at(0)
        assert query(conninfo, "SELECT count(*) FROM ledger.execution") == [(0,)]


def test_a_swap_by_a_newer_version_ends_the_folds_of_an_older_writer(
    conninfo: str, folder: Writer
) -> None:
    report(folder, activation(), start("RUN-26-900001"))
    rebuild(conninfo, NewerRunView())
    before = head(conninfo)
    report(folder, start("RUN-26-900002"))
    report(folder, start("RUN-26-900003"))
    assert view_positions(conninfo) == all_at(before)
    newer = [NewerRunView(), *(view for view in projections() if view.name != "run")]
    with projecting(conninfo, *newer) as projector:
        projector.catch_up()
    report(folder, start("RUN-26-900004"))
    assert view_positions(conninfo)["execution"][0] < head(conninfo)


class KillingRunView(RunView):
    """The view of runs, whose writer loses its connection once, after its fold."""

    def __init__(self, conninfo: str) -> None:
        super().__init__()
        self._conninfo, self.kills = conninfo, False

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        super().apply(generation, events)
        if self.kills:
            self.kills = False
            query(
                self._conninfo,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'ledger' AND datname = current_database()",
            )


def test_a_writer_that_loses_its_connection_amid_a_fold_does_not_append_twice(
    conninfo: str,
) -> None:
    killing = KillingRunView(conninfo)
    others = [view for view in projections() if view.name != "run"]
    with folding(conninfo, [killing, *others]) as writer:
        report(writer, activation(), start("RUN-26-900001"))
        before = head(conninfo)
        killing.kills = True
        (outcome,) = writer.submit([command_of(parsed(start(POISON)), COMMAND_LINE)]).result(20)
        assert isinstance(outcome, Unavailable)
        assert (head(conninfo), view_positions(conninfo)) == (before, all_at(before))
        report(writer, start("RUN-26-900002"), checked_in())
        assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_a_new_connection_may_lead_to_another_database_so_no_fold_is_remembered(
    conninfo: str, folder: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(folder, activation())
    before = head(conninfo)
    query(
        conninfo,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'ledger' AND datname = current_database()",
    )
    monkeypatch.setattr(inline, "_ALONE_SECONDS", 3600.0)
    report(folder, checked_in())
    assert view_positions(conninfo) == all_at(before)


def test_a_stopped_view_that_is_resumed_is_soon_moved_again(
    conninfo: str, folder: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "_CHECK_SECONDS", 3600.0)
    report(folder, activation())
    before = head(conninfo)
    query(conninfo, "UPDATE ledger.projection SET stopped_at = now(), error = 'e' WHERE name='run'")
    report(folder, start("RUN-26-900001"))
    monkeypatch.setattr(inline, "_CHECK_SECONDS", 0.0)
    report(folder, start("RUN-26-900002"))
    assert view_positions(conninfo) == all_at(head(conninfo)) | {"run": (before, True)}
    query(conninfo, "UPDATE ledger.projection SET stopped_at = NULL, error = NULL")
    report(folder, start("RUN-26-900003"))
    assert view_positions(conninfo) == all_at(head(conninfo))
    assert verify_all(conninfo) == []


def test_a_leading_projector_keeps_its_lead_while_a_writer_folds(
    conninfo: str, folder: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    led: list[bool] = []
    lead = HandProjector.lead

    def counts(projector: HandProjector) -> bool:
        led.append(lead(projector))
        return led[-1]

    monkeypatch.setattr(HandProjector, "lead", counts)
    monkeypatch.setattr("ledger.engine.views.projector._IDLE_SECONDS", 0.01)
    with following(conninfo):
        until(lambda: True in led, "the lead")
        report(folder, activation())
        for _ in range(20):
            report(folder, checked_in())
        report(folder, *(checked_in() for _ in range(inline.MOST + 1)))
        until(lambda: view_positions(conninfo) == all_at(head(conninfo)), "the views")
    assert led.count(True) == 1
    assert verify_all(conninfo) == []


@pytest.mark.usefixtures("waits_without_end")
def test_a_write_is_answered_and_read_without_a_notification_about_the_views(
    settings: Settings, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write() -> None:
        async with serving(settings, conninfo) as service:
            await service.accept(activation())
            monkeypatch.setattr(ViewPositions, "_hear", lambda *_: None)
            async with asyncio.timeout(30):
                for number in range(10, 30):
                    run = f"RUN-26-9000{number}"
                    await service.accept(start(run))
                    answer = await service.get(f"/v1/runs/{run}")
                    assert answer["data"]["status"] == "running"

    asyncio.run(write())
