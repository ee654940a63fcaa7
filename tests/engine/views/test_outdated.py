"""A view that is new or of another version is built at start, while the service works."""

import asyncio
import threading
from collections.abc import Collection, Iterator

import psycopg
import pytest

from ledger.app.composition.database import prepare_database
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import timing
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.views.rebuilding import rebuilder as rebuilder_module
from ledger.engine.views.rebuilding.rebuilder import Rebuilder
from ledger.engine.writer.writer import Writer
from projections.runs.view import RunView
from tests.support.databases import copied
from tests.support.edge import edge_of
from tests.support.facts import LINE, activation, fact
from tests.support.rebuilding import (
    NAMES,
    PatientRebuilder,
    leftover_tables,
    rows_from_log,
    rows_of,
    tracking,
    view,
)
from tests.support.service import Service, serving
from tests.support.views import PoisonedRunView, head, projecting, query, report, until

RUNS = ("RUN-26-900001", "RUN-26-900002", "RUN-26-900003")
SHOWS = {
    "execution": f"/v1/execution/{LINE}",
    "run": f"/v1/runs/{RUNS[0]}",
    "event": f"/v1/execution/{LINE}/history",
    "webhook": "/v1/webhooks",
    "directory": "/v1/directory?type=workspace",
    "search": "/v1/search?q=1",
    "statement": "/v1/statements",
    "watch": "/v1/watches",
    "source": "/v1/sources",
}
READS_TOO = {"search": {"execution", "run", "directory"}, "execution": {"watch"}}
"""The other views that these routes read."""

HALVES = (
    ("execution", "run", "event"),
    ("webhook", "directory", "search", "statement", "watch", "source"),
)
"""The views of one half show what is written while those of the other one stand still."""


def start(run: str) -> dict[str, object]:
    return fact("run.started", run, {"service_line_id": LINE})


@pytest.fixture(scope="module")
def begun_once(server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database in which a service has recorded a line and a run of it."""
    name = "begun_once"
    with copied(server.url, name) as conninfo:
        with edge_of(Settings(master_key="0f" * 32), conninfo) as edge:
            edge.accept(activation(), start(RUNS[0]))
        yield name


@pytest.fixture
def begun(server: EmbeddedPostgres, begun_once: str) -> Iterator[str]:
    """A copy of the database ``begun_once``, for one test."""
    with copied(server.url, "begun", begun_once) as conninfo:
        yield conninfo


def test_every_view_has_a_route_that_shows_its_rows() -> None:
    assert set(NAMES) - SHOWS.keys() == set(), "Name in SHOWS a route that shows the view's rows."
    assert SHOWS.keys() - set(NAMES) == set(), "no such view"
    assert sorted(sum(HALVES, ())) == sorted(NAMES)


async def until_true(condition: object, what: str) -> None:
    await asyncio.to_thread(until, condition, what)


async def readiness(service: Service, name: str) -> tuple[str, bool, int]:
    """The status of the service, True if the view has stopped, and the view's version."""
    answer = await service.http.get("/readyz")
    assert answer.status_code == 200
    (state,) = (one for one in answer.json()["projections"] if one["name"] == name)
    return answer.json()["status"], state["stopped"], state["version"]


async def write_meanwhile(service: Service, names: Collection[str]) -> None:
    """Write while views stand still: no write waits for them, and the other views show it."""
    others = [each for each in NAMES if {each, *READS_TOO.get(each, ())}.isdisjoint(names)]
    assert others
    for run in RUNS[1:]:
        async with asyncio.timeout(30):
            (item,) = await service.accept(start(run))
        for other in others:
            path = SHOWS[other].replace(RUNS[0], run)
            answer = await service.http.get(path)
            assert answer.status_code == 200
            assert int(answer.headers["ledger-position"]) >= item["position"]


async def until_built(
    service: Service, conninfo: str, names: Collection[str], generation: int
) -> None:
    """Wait until the views are at the head again; then they must show every event."""
    expected = {name: (view(name).version, generation, head(conninfo), False) for name in names}
    await until_true(
        lambda: expected.items() <= tracking(conninfo).items(), "the views at the head"
    )
    for name in names:
        assert await readiness(service, name) == ("ok", False, view(name).version)
    (item,) = await service.accept(fact("run.completed", RUNS[0]))
    for path in SHOWS.values():
        answer = await service.http.get(path)
        assert answer.status_code == 200
        assert int(answer.headers["ledger-position"]) >= item["position"]
    await until_true(lambda: leftover_tables(conninfo) == [], "the end of the old tables")
    assert rows_of(conninfo) == rows_from_log(conninfo)


@pytest.mark.usefixtures("waits_without_end")
@pytest.mark.parametrize("names", HALVES)
def test_views_of_another_version_serve_their_old_rows_until_they_are_built_anew(
    settings: Settings, begun: str, gate: threading.Event, names: Collection[str]
) -> None:
    async def play() -> None:
        old = query(
            begun,
            "UPDATE ledger.projection SET version = version - 1 WHERE name = ANY(%s)"
            " RETURNING name, version, position",
            [*names],
        )
        async with serving(settings, begun) as service:
            await asyncio.to_thread(PatientRebuilder.has_begun.wait, 10)
            await until_true(
                lambda: all(tracking(begun)[name][3] for name in names), "the views to stand still"
            )
            before = {name: (await service.http.get(SHOWS[name])).content for name in names}
            await service.accept(start("RUN-26-800001"))  # by now the worker knows of the stop
            await write_meanwhile(service, names)
            for name, version, position in old:
                assert await readiness(service, name) == ("degraded", True, version)
                answer = await service.http.get(SHOWS[name])
                assert answer.status_code == 200
                assert answer.content == before[name]
                assert answer.headers["ledger-position"] == str(position)
            gate.set()
            await until_built(service, begun, names, generation=2)

    asyncio.run(play())


def forget_view(conninfo: str, name: str) -> None:
    """Make the ledger one whose code did not know the view yet."""
    for table in reversed(view(name).tables):
        query(conninfo, f"DROP VIEW ledger.{table.name}; DROP TABLE ledger.{table.name}_g1")
    query(conninfo, "DELETE FROM ledger.projection WHERE name = %s", name)


@pytest.mark.usefixtures("waits_without_end")
def test_new_views_of_an_old_log_answer_behind_until_they_are_built(
    settings: Settings, begun: str, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("execution", "event")

    async def play() -> None:
        for name in names:
            forget_view(begun, name)
        prepare_database(settings, begun)
        async with serving(settings, begun) as service:
            await asyncio.to_thread(PatientRebuilder.has_begun.wait, 10)
            await service.accept(start("RUN-26-800001"))
            await write_meanwhile(service, names)
            for name in names:
                assert await readiness(service, name) == ("degraded", True, 0)
                for path in (SHOWS[name], f"{SHOWS[name]}?as_of=2026-04-15T12:00:00Z"):
                    answer = await service.http.get(path)
                    assert (answer.status_code, answer.json()["code"]) == (503, "behind")
                    assert answer.headers["retry-after"] == "1"
                # A wrong statement would be answered alike: only the log line shows it.
                assert f'relation "ledger.{name}" does not exist' in caplog.text
            gate.set()
            await until_built(service, begun, names, generation=1)

    asyncio.run(play())


def give_other_columns(conninfo: str, name: str) -> None:
    """Make the view one of another version, whose tables had a column more."""
    table = view(name).tables[-1].name
    query(conninfo, f"ALTER TABLE ledger.{table}_g1 ADD COLUMN former text")
    query(conninfo, "UPDATE ledger.projection SET version = version - 1 WHERE name = %s", name)


@pytest.mark.usefixtures("waits_without_end")
def test_views_whose_tables_had_other_columns_answer_behind_until_they_are_built_anew(
    settings: Settings, begun: str, gate: threading.Event
) -> None:
    names = ("execution", "run", "event")

    async def play() -> None:
        for name in names:
            give_other_columns(begun, name)
        prepare_database(settings, begun)
        async with serving(settings, begun) as service:
            await asyncio.to_thread(PatientRebuilder.has_begun.wait, 10)
            await write_meanwhile(service, names)
            for route in (SHOWS[name] for name in names):
                for path in (route, f"{route}?as_of=2026-04-15T12:00:00Z"):
                    answer = await service.http.get(path)
                    assert (answer.status_code, answer.json()["code"]) == (503, "behind")
            stream = await service.http.get("/v1/events/stream")
            assert (stream.status_code, stream.json()["code"]) == (503, "behind")
            gate.set()
            await until_built(service, begun, names, generation=2)

    asyncio.run(play())


def test_a_service_that_stops_while_it_builds_a_view_keeps_the_old_view_and_leaves_no_table(
    settings: Settings, begun: str, gate: threading.Event
) -> None:
    async def play() -> None:
        query(begun, "UPDATE ledger.projection SET version = 1 WHERE name = 'run'")
        before, rows = tracking(begun), rows_of(begun)
        async with serving(settings, begun) as service:
            await asyncio.to_thread(PatientRebuilder.has_begun.wait, 10)
            tables = ["run_day_g2", "run_former_usage_g2", "run_g2", "run_payload_g2"]
            assert leftover_tables(begun) == tables
            async with asyncio.timeout(30):
                await asyncio.to_thread(service.loops.rebuilder.stop)
            assert leftover_tables(begun) == []
        assert not gate.is_set()
        assert tracking(begun)["run"][:3] == before["run"][:3]
        # The second service created a key, which only the event view's audit log shows.
        now = rows_of(begun)
        assert {row: now[row] for row in rows} == rows
        assert {table for table, _ in now.keys() - rows.keys()} == {"event"}

    asyncio.run(play())


class NewerRunView(RunView):
    """The view of runs in a later version of the code."""

    version = RunView.version + 7


def test_a_raised_version_is_built_and_followed(conninfo: str, writer: Writer) -> None:
    report(writer, activation(), start(RUNS[0]))
    with projecting(conninfo) as projector:
        projector.catch_up()
    with projecting(conninfo, NewerRunView()) as projector:
        report(writer, start(RUNS[1]))
        projector.catch_up()
        assert tracking(conninfo)["run"][1] == 1
        assert query(conninfo, "SELECT run_id FROM ledger.run") == [(RUNS[0],)]
        rebuilder = Rebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),))
        assert rebuilder.run_once()
        assert tracking(conninfo)["run"] == (NewerRunView.version, 2, head(conninfo), False)
        report(writer, start(RUNS[2]))
        assert projector.lead()
        projector.catch_up()
    rows = query(conninfo, "SELECT run_id FROM ledger.run ORDER BY 1")
    assert rows == [(run,) for run in RUNS]


def test_a_rebuild_says_how_far_it_has_come(
    conninfo: str,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report(writer, activation(), start(RUNS[0]))
    with projecting(conninfo) as projector:
        projector.catch_up()
    end = head(conninfo)
    monkeypatch.setattr(rebuilder_module, "_SAY_SECONDS", 0)
    with caplog.at_level("INFO", "ledger.engine.views.rebuilding.rebuilder"):
        assert Rebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),)).run_once()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"building run, version {NewerRunView.version}"
    assert f"at position {end} of {end}" in messages
    assert messages[-1] == f"built run up to position {end}"


def test_a_service_whose_views_have_the_codes_versions_builds_no_view(worked: str) -> None:
    before = tracking(worked)
    assert Rebuilder(worked, EnvelopeMapper(), projections()).run_once()
    assert tracking(worked) == before
    assert leftover_tables(worked) == []


def test_a_view_that_cannot_be_built_holds_no_other_view_back(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start(RUNS[0]))
    query(conninfo, "UPDATE ledger.projection SET version = 0")
    views = (PoisonedRunView(RUNS[0]), view("event"))
    assert not Rebuilder(conninfo, EnvelopeMapper(), views).run_once()
    assert tracking(conninfo)["event"] == (view("event").version, 2, head(conninfo), False)
    assert tracking(conninfo)["run"][:2] == (0, 1)
    assert leftover_tables(conninfo) == []


@pytest.mark.usefixtures("gate")
def test_a_rebuild_whose_process_freezes_is_done_by_another(
    conninfo: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen process does not beat. When it wakes, the other one has swapped its view in."""
    monkeypatch.setattr(timing, "FROZEN_SECONDS", 0.5)
    report(writer, activation(), start(RUNS[0]))
    with projecting(conninfo) as projector:
        projector.catch_up()
    frozen = PatientRebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),))
    ended: list[Exception] = []

    def build() -> None:
        try:
            frozen.run_once()
        except psycopg.Error as error:
            ended.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert frozen.has_begun.wait(10)
    rival = Rebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),))
    until(rival.run_once, "the other rebuild")
    built = (NewerRunView.version, 2, head(conninfo), False)
    assert tracking(conninfo)["run"] == built
    frozen.may_go_on.set()
    thread.join(10)
    assert len(ended) == 1
    assert tracking(conninfo)["run"] == built
    assert leftover_tables(conninfo) == []
