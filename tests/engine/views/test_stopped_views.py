"""An event that a view cannot take stops that view, visibly, and no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from ledger.app.cli.views import list_projections
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.views.contract import Projection
from ledger.engine.writer.writer import Writer
from ledger.features.lines.model.execution_events import Updated
from ledger.features.runs.model.run import RunStarted
from projections.lines.view import ExecutionView
from tests.support.facts import LINE, activation, fact
from tests.support.rebuilding import NAMES
from tests.support.service import Clock, Service, serving
from tests.support.views import (
    OverlargeRunView,
    PoisonedRunView,
    folded,
    following,
    head,
    insert_raw,
    projecting,
    query,
    report,
    stored,
    until,
    view_positions,
)

POISON = "RUN-26-900666"
UPDATED = "execution.updated/1"


def start(run: str) -> dict[str, object]:
    return fact("run.started", run, {"service_line_id": LINE})


def tags(*words: str) -> dict[str, object]:
    return fact("service_line.updated", LINE, {"project_tags": list(words)})


def poisoned() -> list[Projection]:
    """All views; the view of runs has a bug."""
    return [PoisonedRunView(POISON), *(view for view in projections() if view.name != "run")]


def test_a_poison_event_stops_its_view_alone(conninfo: str, writer: Writer) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    (before,) = report(writer, start("RUN-26-900002"))
    (poison,) = report(writer, start(POISON))
    report(writer, start("RUN-26-900003"), tags("on"))
    with projecting(conninfo, *poisoned()) as projector:
        projector.catch_up()
        others = dict.fromkeys(NAMES, (head(conninfo), False))
        assert view_positions(conninfo) == others | {"run": (before, True)}
        report(writer, tags("and", "on"))
        projector.catch_up()
        others = dict.fromkeys(NAMES, (head(conninfo), False))
        assert view_positions(conninfo) == others | {"run": (before, True)}
    runs = query(conninfo, "SELECT run_id FROM ledger.run ORDER BY 1")
    assert runs == [("RUN-26-900001",), ("RUN-26-900002",)]
    ((error,),) = query(conninfo, "SELECT error FROM ledger.projection WHERE name = 'run'")
    assert error == f"at position {poison}: ValueError('a bug in the view')"


def test_an_error_of_postgresql_is_logged_without_values_of_rows(
    conninfo: str, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    report(writer, activation(), tags("plum"))
    unlikely = "ALTER TABLE ledger.execution_g1 ADD CHECK (project_tags::text NOT LIKE '%plum%')"
    query(conninfo, unlikely)
    with projecting(conninfo) as projector:
        projector.catch_up()
    ((error,),) = query(conninfo, "SELECT error FROM ledger.projection WHERE name = 'execution'")
    for text in (error, caplog.text):
        assert "CheckViolation" in text
        assert "DETAIL" not in text
        assert "plum" not in text


def test_a_stopped_view_stands_at_exactly_the_position_before_the_poison(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start("RUN-26-900001"), tags("a"), tags("b"))
    (poison,) = report(writer, start(POISON))
    with projecting(conninfo, *poisoned()) as projector:
        projector.catch_up()
    assert view_positions(conninfo)["run"] == (poison - 1, True)


def test_an_event_beyond_a_limit_of_the_database_stops_its_view_alone(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start(POISON))
    with projecting(conninfo, OverlargeRunView(POISON), ExecutionView()) as projector:
        try:
            projector.catch_up()
        except psycopg.errors.ProgramLimitExceeded:
            assert projector.lead()
        assert view_positions(conninfo)["execution"] == (head(conninfo), False)


def test_a_restarted_projector_tries_a_stopped_view_again(conninfo: str, writer: Writer) -> None:
    report(writer, activation(), start(POISON), start("RUN-26-900001"))
    with projecting(conninfo, *poisoned()) as projector:
        projector.catch_up()
        assert view_positions(conninfo)["run"][1]
    with projecting(conninfo, *poisoned()) as projector:
        # The bug is still there: the view stops again, and folds no event twice.
        projector.catch_up()
        assert view_positions(conninfo)["run"][1]
    with projecting(conninfo) as projector:
        projector.catch_up()
    assert view_positions(conninfo)["run"] == (head(conninfo), False)
    assert query(conninfo, "SELECT error FROM ledger.projection") == [(None,)] * len(NAMES)
    assert stored(conninfo) == folded(conninfo)


def test_a_view_that_the_code_does_not_know_stops_until_it_does(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    with projecting(conninfo, ExecutionView()) as older:
        older.catch_up()
        assert view_positions(conninfo) == {
            "execution": (head(conninfo), False),
            "run": (0, True),
            "event": (0, True),
            "webhook": (0, True),
            "directory": (0, True),
            "search": (0, True),
            "statement": (0, True),
            "watch": (0, True),
            "source": (0, True),
        }
    with projecting(conninfo) as projector:
        projector.catch_up()
    assert set(view_positions(conninfo).values()) == {(head(conninfo), False)}
    assert stored(conninfo) == folded(conninfo)


@pytest.mark.parametrize("state", [b"{half", b"", b"[]", b'{"reported_by":"\xff"}'])
def test_an_unreadable_event_stops_only_the_views_that_fold_its_type(
    conninfo: str, writer: Writer, state: bytes
) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    broken = insert_raw(conninfo, UPDATED, state)
    report(writer, start("RUN-26-900002"))
    wanting = [view.name for view in projections() if Updated in view.events]
    assert 0 < len(wanting) < len(NAMES)
    expected = dict.fromkeys(NAMES, (head(conninfo), False))
    expected |= dict.fromkeys(wanting, (broken - 1, True))
    with following(conninfo):
        until(lambda: view_positions(conninfo) == expected, "the stop")


def test_an_unreadable_event_of_a_type_that_no_view_folds_stops_no_view(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation())
    insert_raw(conninfo, "of.the.future/7", b"{half", "FUT-26-000001")
    report(writer, start("RUN-26-900001"))
    with projecting(conninfo) as projector:
        projector.catch_up()
    assert set(view_positions(conninfo).values()) == {(head(conninfo), False)}


@asynccontextmanager
async def degraded(
    settings: Settings, conninfo: str, stream: str = "LIN-26-999999"
) -> AsyncIterator[tuple[Service, int]]:
    """A service whose view of lines stopped at an unreadable event, and that event's position."""
    async with serving(settings, conninfo, Clock()) as service:
        await service.accept(activation(), start("RUN-26-900001"))
        broken = insert_raw(conninfo, UPDATED, b"{half", stream)
        query(conninfo, "SELECT pg_notify('ledger_events', '')")
        stopped = (broken - 1, True)
        await asyncio.to_thread(
            until, lambda: view_positions(conninfo)["execution"] == stopped, "a stop"
        )
        # The first write waits until the worker has heard of the stop.
        await service.accept(start("RUN-26-900002"))
        yield service, broken


def test_a_stopped_view_is_shown_by_readiness_metrics_and_the_command(
    settings: Settings, conninfo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read() -> None:
        async with degraded(settings, conninfo) as (service, broken):
            await service.accept(tags("later"))
            answer = await service.http.get("/readyz")
            assert answer.status_code == 200
            assert answer.json()["status"] == "degraded"
            views = {view["name"]: view for view in answer.json()["projections"]}
            lag = head(conninfo) - broken + 1
            assert (views["execution"]["stopped"], views["execution"]["lag"]) == (True, lag)
            assert (views["run"]["stopped"], views["run"]["lag"]) == (False, 0)
            metrics = (await service.http.get("/metrics")).text
            assert 'ledger_projection_stopped{projection="execution"} 1.0' in metrics
            assert 'ledger_projection_stopped{projection="run"} 0.0' in metrics
            assert f'ledger_projection_lag{{projection="execution"}} {lag}.0' in metrics
            assert list_projections(settings, conninfo, as_json=False) == 0
            listed = capsys.readouterr().out
            assert f"stopped\tat position {broken}: MapperDeserialisationError" in listed

    asyncio.run(read())


@pytest.mark.usefixtures("waits_without_end")
def test_writers_do_not_wait_for_a_stopped_view_and_read_their_writes_in_the_others(
    settings: Settings, conninfo: str
) -> None:
    async def write() -> None:
        async with degraded(settings, conninfo) as (service, broken):
            async with asyncio.timeout(30):
                for number in range(10, 30):
                    run = f"RUN-26-9000{number}"
                    await service.accept(start(run))
                    run_answer = await service.get(f"/v1/runs/{run}")
                    assert run_answer["data"]["status"] == "running"
            answer = await service.http.get(f"/v1/execution/{LINE}")
            assert answer.json()["data"]["open_runs"] == 1
            assert answer.headers["ledger-position"] == str(broken - 1)

    asyncio.run(write())


def test_a_stopped_view_answers_for_the_positions_that_it_has_reached(
    settings: Settings, conninfo: str
) -> None:
    async def read() -> None:
        async with degraded(settings, conninfo) as (service, broken):
            for minimum, status in ((broken - 1, 200), (broken, 503)):
                headers = {"Ledger-Min-Position": str(minimum)}
                answer = await service.http.get(f"/v1/execution/{LINE}", headers=headers)
                assert answer.status_code == status, minimum

    asyncio.run(read())


def test_an_unreadable_event_in_a_lines_own_stream_refuses_no_other_line(
    conninfo: str, writer: Writer
) -> None:
    other = "LIN-26-000002"
    report(writer, activation(), activation(other))
    insert_raw(conninfo, UPDATED, b"{half", "LIN-26-000003")
    outcomes = report(writer, tags("a"), fact("service_line.paused", other))
    assert len(outcomes) == 2


def test_every_view_that_folds_an_event_can_stop_at_it_and_the_projector_rests(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation())
    broken = insert_raw(conninfo, "run.started/1", b"{half", "RUN-26-900001")
    report(writer, start("RUN-26-900002"))
    with projecting(conninfo) as projector:
        projector.catch_up()
        expected = {
            view.name: (broken - 1, True) if RunStarted in view.events else (head(conninfo), False)
            for view in projections()
        }
        assert view_positions(conninfo) == expected
        assert not projector.run_once()
