"""Nodes of two versions serve one database while a view is rebuilt in the newer version."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import psycopg
import pytest

from ledger.app.composition.database import prepare_database
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log import nodes
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.postgres.schema.table import Text
from ledger.engine.views.contract import Projection
from ledger.engine.views.projector import Projector
from ledger.engine.views.rebuilding.rebuilder import Rebuilder
from ledger.engine.views.rebuilding.shadow import CannotBuild, is_outdated
from ledger.engine.views.registration import register
from projections.runs.view import RunView
from tests.support.facts import LINE, activation, fact
from tests.support.rebuilding import tracking, view
from tests.support.service import Service, serving
from tests.support.views import head, query, until

RUN = "RUN-26-900001"


class NewerRunView(RunView):
    """The view of runs in the version of the newer node."""

    version = RunView.version + 1


class _MoreColumns(NamedTuple):
    """A row of another form."""

    later: Text


class OtherRunView(NewerRunView):
    """The same, with tables of other columns."""

    tables = tuple(replace(table, row=_MoreColumns) for table in RunView.tables)


def of_the_newer_node() -> list[Projection]:
    return [NewerRunView() if each.name == "run" else each for each in projections()]


@contextmanager
def newer_projector(conninfo: str) -> Iterator[Projector]:
    projector = Projector(
        conninfo, EnvelopeMapper(), of_the_newer_node(), Candidate(locks.FOLLOWING)
    )
    projector.start()
    try:
        yield projector
    finally:
        projector.stop()


def start(run: str) -> dict[str, object]:
    return fact("run.started", run, {"service_line_id": LINE})


async def answer(service: Service, path: str) -> tuple[int, str | None]:
    """The status and the code of an answer."""
    reply = await service.http.get(path)
    return reply.status_code, reply.json().get("code")


async def soon(service: Service, path: str, expected: tuple[int, str | None]) -> None:
    async with asyncio.timeout(15):
        while await answer(service, path) != expected:
            await asyncio.sleep(0.01)


def test_an_older_node_reads_a_view_until_a_newer_node_has_rebuilt_it(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            await service.accept(activation(), start(RUN))
            # The newer node starts: its tables have another column.
            register(conninfo, [OtherRunView()])
            assert await answer(service, f"/v1/runs/{RUN}") == (200, None)
            rebuilder = Rebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),))
            assert await asyncio.to_thread(rebuilder.run_once)
            await soon(service, f"/v1/runs/{RUN}", (503, "behind"))
            assert await answer(service, f"/v1/runs/{RUN}?as_of=2026-04-15T12:00:00Z") == (
                503,
                "behind",
            )
            # Writes go on, and so do reads of the other views.
            await service.accept(start("RUN-26-900002"))
            assert await answer(service, f"/v1/execution/{LINE}") == (200, None)
            ready = await service.http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "outdated")

    asyncio.run(play())


def test_a_node_that_lost_its_listener_knows_again_which_views_are_not_its_own(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            await service.accept(activation(), start(RUN))
            query(
                conninfo,
                "UPDATE ledger.projection SET version = version + 1 WHERE name = 'run'",
            )
            assert await answer(service, f"/v1/runs/{RUN}") == (200, None)  # nobody said it
            query(
                conninfo,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ledger api listener' AND datname = current_database()",
            )
            await soon(service, f"/v1/runs/{RUN}", (503, "behind"))

    asyncio.run(play())


def test_the_older_projector_leaves_the_lead_to_the_newer_one_after_the_swap(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            await service.accept(activation(), start(RUN))
            with newer_projector(conninfo):
                rebuilder = Rebuilder(conninfo, EnvelopeMapper(), (NewerRunView(),))
                assert await asyncio.to_thread(rebuilder.run_once)
                await service.report(start("RUN-26-900003"))
                expected = (NewerRunView.version, 2, head(conninfo), False)
                await asyncio.to_thread(
                    until, lambda: tracking(conninfo)["run"] == expected, "the newer projector"
                )

    asyncio.run(play())


def test_a_renewed_view_is_readable_at_every_moment(settings: Settings, conninfo: str) -> None:
    """A start gives the grants with the view: a running node would lack them until its end."""

    async def play() -> None:
        async with serving(settings, conninfo) as service:
            await service.accept(activation(), start(RUN))
            query(conninfo, "COMMENT ON VIEW ledger.run IS 'made by another version'")
            register(conninfo, projections())
            assert await answer(service, f"/v1/runs/{RUN}") == (200, None)

    asyncio.run(play())


def test_a_start_protects_the_tables_of_another_versions_view_if_it_reads_their_columns(
    settings: Settings, conninfo: str
) -> None:
    query(conninfo, "UPDATE ledger.projection SET version = version + 1 WHERE name = 'run'")
    query(conninfo, "ALTER TABLE ledger.run_g1 DISABLE ROW LEVEL SECURITY")
    prepare_database(settings, conninfo)
    assert query(
        conninfo, "SELECT relrowsecurity FROM pg_class WHERE oid = 'ledger.run_g1'::regclass"
    ) == [(True,)]


def test_an_older_node_that_starts_again_does_not_undo_the_rebuild(conninfo: str) -> None:
    older = view("run")
    query(conninfo, "UPDATE ledger.projection SET version = version + 1 WHERE name = 'run'")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        nodes.beat(connection, "ab" * 8, "9.0.0", "all", None)
        with pytest.raises(CannotBuild, match="newer version that still runs"):
            is_outdated(connection, older)
    assert not Rebuilder(conninfo, EnvelopeMapper(), (older,)).run_once()
    assert tracking(conninfo)["run"][0] == older.version + 1
    # Once the newer node is gone, the operator has gone back to the older version.
    query(conninfo, "UPDATE ledger.node SET beaten_at = beaten_at - interval '1 minute'")
    with psycopg.connect(conninfo) as connection:
        assert is_outdated(connection, older)
    assert Rebuilder(conninfo, EnvelopeMapper(), (older,)).run_once()
    assert tracking(conninfo)["run"][0] == older.version
