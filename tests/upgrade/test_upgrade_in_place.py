"""A ledger that commit 57058cd wrote is upgraded in place, while the new version serves it."""

import asyncio
import threading

import psycopg
from psycopg.rows import tuple_row

from ledger.postgres.embedded import EmbeddedPostgres
from ledger.service.composition.database import prepare_database
from ledger.views.shadow import live_generations
from projections import projections
from scripts.bench.corpus_request import Answer, Request, digest_of, headers_of
from tests.support.facts import activation, fact
from tests.support.rebuilding import (
    NAMES,
    PatientRebuilder,
    leftover_tables,
    rows_from_log,
    rows_of,
    tracking,
    view,
)
from tests.support.restored import OldLedger
from tests.support.service import Service, serving
from tests.support.views import head, until

OLD_LEDGER = OldLedger("57058cd")
LINE = "LIN-26-900001"

PATHS = {
    "event": ("/v1/events?limit=100", "/v1/events/stream", "/v1/execution/LIN-26-000001/history"),
    "execution": ("/v1/execution", "/v1/execution/LIN-26-000001"),
    "run": ("/v1/runs/RUN-26-830003",),
    "webhook": ("/v1/webhooks",),
    "directory": ("/v1/directory?type=project",),
    "search": ("/v1/search?q=830003",),
}
"""Reads of each view."""


def unfit_views(conninfo: str) -> set[str]:
    """The views whose tables have other columns than this version reads."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        fit = {projection.name for projection, _ in live_generations(connection, projections())}
    return set(NAMES) - fit


async def answer_to(service: Service, request: Request) -> Answer:
    headers = {"accept-encoding": "identity", **headers_of(request, OLD_LEDGER.keys)}
    answer = await service.http.request(request.method, request.path, headers=headers)
    return Answer(answer.status_code, answer.headers, answer.content)


def test_facts_are_taken_at_once_and_each_view_answers_as_before_once_it_is_rebuilt(
    server: EmbeddedPostgres, gate: threading.Event
) -> None:
    settings = OLD_LEDGER.settings
    past = [(r, d) for r, d in OLD_LEDGER.answers if "as_of=" in r.path and r.method == "GET"][::4]

    async def play(conninfo: str) -> None:
        unfit = unfit_views(conninfo)
        assert "event" in unfit
        async with serving(settings, conninfo, OLD_LEDGER.clock) as service:
            await asyncio.to_thread(PatientRebuilder.has_begun.wait, 10)
            _, item = await service.accept(
                activation(LINE), fact("execution.checked_in", LINE, {"hours": 1})
            )
            assert item["position"] == head(conninfo)
            for path in (path for name in unfit for path in PATHS[name]):
                answer = await service.http.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "behind"), path
            gate.set()
            expected = {name: (view(name).version, head(conninfo), False) for name in NAMES}
            await asyncio.to_thread(
                until,
                lambda: (
                    {n: (v, p, s) for n, (v, _, p, s) in tracking(conninfo).items()} == expected
                ),
                "the views",
            )
            answers = [(request, d, await answer_to(service, request)) for request, d in past]
            # A refusal tells the present position.
            found = [(request, d, answer) for request, d, answer in answers if answer.status == 200]
            assert len(found) > 80
            assert [r for r, d, answer in found if not digest_of(r, answer).startswith(d)] == []
            history = (await service.get(f"/v1/execution/{LINE}/history"))["data"]
            assert history[-1]["position"] == item["position"]
            await asyncio.to_thread(until, lambda: not leftover_tables(conninfo), "the clean-up")
        assert rows_of(conninfo) == rows_from_log(conninfo)

    with OLD_LEDGER.as_written(server.url, "upgraded_in_place") as conninfo:
        prepare_database(settings, conninfo)
        asyncio.run(play(conninfo))
